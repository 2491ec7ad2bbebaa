"""``--output``: what a command writes to, found out before the work begins."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from packformer.path_kind import too_long


@contextmanager
def output_folder(folder: Path | None, default: str = "output") -> Iterator[Path]:
    """Makes the folder before the work begins; removes it if nothing came into it.

    Args:
        folder: as it was given. One that begins with ``~`` lies in the user's own. None for a new
            one, see ``new_folder``.
        default: the name of that.

    Yields:
        The folder.

    Raises:
        ValueError: naming the argument, if it is no folder or cannot be made or written to.
        OSError: if its path is too long, in the words of ``path_kind.too_long``.
    """
    folder = new_folder(default) if folder is None else folder.expanduser()
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise ValueError(f"--output ({folder}) must be a folder") from error
    except OSError as error:
        if too_long(error):
            raise
        raise ValueError(
            f"--output ({folder}) cannot be made ({error.strerror}): name a folder in a place that "
            "you may write to"
        ) from error
    _check_writable(folder, folder)
    try:
        yield folder
    finally:
        for place in new:
            if any(place.iterdir()):
                break
            place.rmdir()


def new_folder(name: str) -> Path:
    """``name``, or the first of ``name-2``, ``name-3``, ... that is not there."""
    folder, number = Path(name), 1
    while folder.exists():
        number += 1
        folder = Path(f"{name}-{number}")
    return folder


def new_output_file(name: str) -> Path:
    """The file of ``--output``, which is not there yet.

    Args:
        name: as it was given. One that begins with ``~`` lies in the user's own folder.

    Raises:
        ValueError: naming the argument, if it is there, or cannot be made.
    """
    file = Path(name).expanduser()
    if file.exists():
        raise ValueError(f"--output ({file}) exists: name another file, or remove it")
    if not file.parent.is_dir():
        raise ValueError(f"--output ({file}) lies in no folder: make {file.parent} first")
    _check_writable(file, file.parent)
    return file


def _check_writable(given: Path, folder: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(
            f"--output ({given}) cannot be written, as {folder} is read-only for you: name a place "
            "that you may write to"
        )
