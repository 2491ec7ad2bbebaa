"""Says what lies at a path, for messages: a named pipe exists and is yet no file.

Also says what is wrong with a path that is too long for anything to lie there.
"""

from __future__ import annotations

import difflib
import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

_NAME_BYTES = 255  # that the usual file systems take in a name; Linux takes 4,095 in a path
_PATH_BYTES = 4095
_SHOWN = 20  # characters of a name that is too long

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

    Raises:
        OSError: if the path is too long, in the words of ``too_long``.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise
        if path.is_symlink():
            return f"is a link to {os.readlink(path)}, which leads nowhere"
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        return "does not exist" if missing else f"cannot be looked at ({error.strerror})"
    return _KINDS.get(stat.S_IFMT(mode), "is no file")


def kind_of_existing(name: str, path: str, needed: str) -> str:
    """``path_kind`` of a path that is read, where ``~`` is the home folder.

    Args:
        name: of the setting that gives the path.
        path: as it was given.
        needed: what to give instead, if nothing of a similar name lies beside it.

    Raises:
        ValueError: if it does not exist.
        OSError: if it is too long.
    """
    place = Path(path).expanduser()
    if (kind := path_kind(place)) != "does not exist":
        return kind
    beside = os.listdir(place.parent) if place.parent.is_dir() else []
    near = difflib.get_close_matches(place.name, beside, n=1)
    meant = f"did you mean {place.parent / near[0]}?" if near else needed
    raise ValueError(f"{name} {path} does not exist: {meant}")


def check_text_path(path: str) -> None:
    """Refuses a ``data.path`` at which no text can lie.

    Raises:
        ValueError: if there is no file or folder.
        OSError: if the path is too long.
    """
    needed = "give a file or folder"
    if "://" in path:
        raise ValueError(f"data.path {path} is a URL, and text is read from disk: {needed}")
    kind = kind_of_existing("data.path", path, needed)
    if kind not in ("is a file", "is a folder"):
        piped = ", or pipe into `packformer prepare -`" if kind == "is a named pipe" else ""
        raise ValueError(f"data.path {path} {kind}: {needed}{piped}")


def too_long(error: BaseException, settings: Iterable[tuple[str, str]] = ()) -> str | None:
    """What to say of a path that is too long; None if ``error`` is another, or names none.

    Args:
        error: any.
        settings: names and values; the one that gave the path is named.
    """
    if not isinstance(error, OSError) or error.errno != errno.ENAMETOOLONG:
        return None
    paths = [path for path in (error.filename, error.filename2) if isinstance(path, str | bytes)]
    if not paths:
        return None
    path = max(map(os.fsdecode, paths), key=_size)
    name = max(path.split("/"), key=_size)
    if _size(name) > _NAME_BYTES:
        setting = next((f"{key}: " for key, value in settings if _is_of(name, value)), "")
        return (
            f"{setting}the name {name[:_SHOWN]}... has {_size(name):,} bytes, and a file or folder "
            f"name may have {_NAME_BYTES}: shorten it"
        )
    if _size(path) > _PATH_BYTES:
        return (
            f"the path {path[:_SHOWN]}... has {_size(path):,} bytes, and a path may have "
            f"{_PATH_BYTES:,}: shorten it"
        )
    return f"a path is longer than its file system takes ({path}): shorten it"


def _is_of(name: str, value: str) -> bool:
    """Whether most of what a name may have came from the value of a setting."""
    parts = value.strip("'\"").split("/")
    return any(part in name for part in parts if _size(part) > _NAME_BYTES // 2)


def _size(text: str) -> int:
    return len(os.fsencode(text))
