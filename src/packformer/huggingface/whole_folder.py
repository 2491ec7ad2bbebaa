"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_new(folder: Path) -> None:
    """Refuses a folder that is there.

    Raises:
        ValueError: naming it.
    """
    if folder.exists() or folder.is_symlink():
        raise ValueError(f"{folder} exists: choose another folder, or remove it")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """An empty folder beside ``folder``, renamed to it at the end.

    If the body fails it is removed. A kill leaves it behind, hidden: ``.NAME.PID``.

    Raises:
        ValueError: if ``folder`` exists.
        OSError: if it cannot be written.
    """
    check_new(folder)
    unfinished = folder.absolute().with_name(f".{folder.absolute().name}.{os.getpid()}")
    try:
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        unfinished.mkdir()
        yield unfinished
        for file in unfinished.iterdir():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        unfinished.rename(folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"cannot write {folder} ({reason}): is the disk full?") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
