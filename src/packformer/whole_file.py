"""Files that are replaced in one step: who looks sees the former content or the new one, whole."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of errors that a full disk, or a limit of the user's, makes."""
_NO_RIGHT = (errno.EACCES, errno.EPERM, errno.EROFS)
_UNFINISHED = re.compile(r"\..+\.\d+")


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path beside ``file`` to write to; what is written there takes its place at the end.

    The content is on the disk before it has its name. If the body fails, ``file`` stays as it was.
    A kill may leave ``.NAME.PID`` behind, which ``remove_unfinished`` removes.

    Raises:
        OSError: naming ``file``, if it cannot be written.
    """
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        yield unfinished
        with unfinished.open("r+b") as written:
            os.fsync(written.fileno())
        os.replace(unfinished, file)
        flush_folder(file.parent)
    except OSError as error:
        raise cannot_write(file, error) from error
    finally:
        with suppress(OSError):  # which would hide why it failed
            unfinished.unlink(missing_ok=True)


def cannot_write(file: Path, error: Exception, needed: int | None = None) -> OSError:
    """``error`` as one that tells in a line what cannot be written, and what helps.

    Where the room may be the reason, or none is known, it tells how much is left.

    Args:
        file: or folder that was to be written.
        error: what happened.
        needed: bytes of the file, if they are known.
    """
    reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
    code = getattr(error, "errno", None)
    remedy = ""
    if code is None or code in NO_ROOM:
        remedy = _room(file.parent, needed)
    elif code in _NO_RIGHT:
        remedy = ": name a place that you may write to"
    elif code == errno.ENAMETOOLONG:  # which a temporary name beside it, being longer, may be alone
        remedy = ": shorten its name"
    told = OSError(f"cannot write {file} ({reason}){remedy}")
    told.errno = code
    return told


def _room(folder: Path, needed: int | None) -> str:
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return ""
    wanted = "" if needed is None else f", and {needed / 2**20:,.1f} MiB are needed"
    return f": {folder} has {free / 2**20:,.1f} MiB left{wanted}"


def replace_text(file: Path, text: str) -> None:
    """Writes a file of UTF-8 whole or not at all, lines as they are; errors as of ``replacing``."""
    with replacing(file) as unfinished:
        unfinished.write_bytes(text.encode())


def flush_folder(folder: Path) -> None:
    """Makes what was created or renamed in ``folder`` survive a loss of power."""
    with suppress(OSError):  # Windows opens no folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_unfinished(folder: Path) -> None:
    """Removes what killed processes left of files in ``folder``, in which no other one writes."""
    for file in folder.glob(".*"):
        if _UNFINISHED.fullmatch(file.name) and file.is_file():
            file.unlink(missing_ok=True)
