"""Finds files in a folder that other processes are changing."""

from __future__ import annotations

import os
from pathlib import Path


def files_below(folder: Path, name: str) -> list[Path]:
    """The files called ``name`` in ``folder`` and all folders below it.

    A folder that vanishes meanwhile is passed over, as is one that may not be read. ``Path.rglob``
    of Python 3.11 and 3.12 raises there. Links to folders are not followed.
    """
    return [Path(place, name) for place, _, names in os.walk(folder) if name in names]
