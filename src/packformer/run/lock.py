"""One process at a time trains in a run folder."""

from __future__ import annotations

from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

_LOCK_FILE = ".lock"


def lock_run(folder: Path) -> BaseFileLock:
    """Takes the folder's lock until it is released or the process ends, however it ends.

    Raises:
        ValueError: if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"the run in {folder} is still running in another process") from error
    return lock


def is_running(folder: Path) -> bool:
    """Whether a process holds the folder's lock."""
    if not (folder / _LOCK_FILE).exists():
        return False
    try:
        lock_run(folder).release()
    except ValueError:
        return True
    return False
