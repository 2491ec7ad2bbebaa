"""``--output``: the folder that a command writes to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """Makes the folder before the work begins; removes it if nothing came into it.

    Raises:
        ValueError: naming the argument, if it is no folder or cannot be made or written to.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output ({folder}) must be a folder")
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"--output ({folder}) cannot be made ({error.strerror}): name a folder in a place that "
            "you may write to"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"--output ({folder}) cannot be written to: name another folder")
    try:
        yield
    finally:
        if is_new and not any(folder.iterdir()):
            folder.rmdir()
