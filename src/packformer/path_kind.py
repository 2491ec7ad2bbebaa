"""Says what lies at a path, for messages: a named pipe exists and is yet no file."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_KINDS = {
    stat.S_IFREG: "is a file",
    stat.S_IFDIR: "is a folder",
    stat.S_IFIFO: "is a named pipe",
    stat.S_IFSOCK: "is a socket",
    stat.S_IFCHR: "is a device",
    stat.S_IFBLK: "is a device",
}


def path_kind(path: Path) -> str:
    """``is a file``, ``is a folder``, ``is a named pipe``, ``does not exist`` and the like.

    Nothing is opened, so that a pipe cannot make the caller wait.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if path.is_symlink():
            return f"is a link to {os.readlink(path)}, which leads nowhere"
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        return "does not exist" if missing else f"cannot be looked at ({error.strerror})"
    return _KINDS.get(stat.S_IFMT(mode), "is no file")
