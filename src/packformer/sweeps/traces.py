"""A sweep that is refused leaves nothing behind."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from packformer.path_kind import too_long

_FILE = "multirun.yaml"  # Hydra writes it before it looks at the jobs


@dataclass(frozen=True)
class _Before:
    folder: Path
    parents: list[Path]
    """The folder and those above that did not exist, innermost first."""
    others: frozenset[str]
    """Names of what was in the folder."""
    file: bytes | None


_sweep: list[_Before] = []


def remember(folder: Path) -> None:
    """Keeps in mind what there is before Hydra writes to the sweep's folder."""
    _sweep.clear()
    try:
        folder.stat()
    except OSError as error:
        if too_long(error):  # for Hydra, too, which tells it
            return
    parents = [path for path in (folder, *folder.parents) if not path.exists()]
    file = folder / _FILE
    others = frozenset(path.name for path in folder.glob("*"))
    content = file.read_bytes() if file.is_file() else None
    _sweep[:] = [_Before(folder, parents, others, content)]


def begin() -> None:
    """The first job is about to start: what is written from now on stays."""
    _sweep.clear()


def remove_traces() -> None:
    """Puts the folder of a sweep that did not begin in the state it was in before."""
    for before in _sweep:
        file = before.folder / _FILE
        if before.file is not None:
            file.write_bytes(before.file)
            continue
        if {path.name for path in before.folder.glob("*")} - before.others == {_FILE}:
            file.unlink()
        for folder in before.parents:
            with suppress(OSError):  # not empty, or not there
                folder.rmdir()
    _sweep.clear()
