"""A folder that is to be made: refused before the work begins."""

from __future__ import annotations

import os
from pathlib import Path


def check_new(folder: Path) -> None:
    """Refuses a folder that is there, or cannot be made.

    Raises:
        ValueError: naming it.
    """
    if folder.exists() or folder.is_symlink():
        raise ValueError(f"{folder} exists: choose another folder, or remove it")
    above = next(place for place in folder.absolute().parents if place.exists())
    if not above.is_dir():
        raise ValueError(f"{folder} cannot be made: {above} is no folder; choose another place")
    if not os.access(above, os.W_OK | os.X_OK):
        raise ValueError(
            f"{folder} cannot be made: you may not write to {above}; choose another place"
        )
