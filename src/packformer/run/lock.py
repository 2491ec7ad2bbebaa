"""One process at a time trains in a run folder, runs a study in a folder, or chooses where a
configuration continues.
"""

from __future__ import annotations

from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from packformer.path_kind import path_kind

_LOCK_FILE = ".lock"
_SECONDS = 0.2  # longer than another process looks whether the run is running


class RunningElsewhere(ValueError):
    """Another process has the folder of a run.

    Attributes:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(f"the run in {folder} is still running in another process")
        self.folder = folder


class _NoLock(ValueError):
    """What lies in the place of a lock is none."""


def lock_run(folder: Path) -> BaseFileLock:
    """Takes the folder's lock until it is released or the process ends, however it ends.

    Raises:
        RunningElsewhere: if another process holds it.
        ValueError: if it is a link, a folder or the like.
    """
    return _lock(folder / _LOCK_FILE, RunningElsewhere(folder))


def lock_choice(output_dir: Path, name: str) -> BaseFileLock:
    """Takes the right to choose where ``resume=auto`` continues.

    Args:
        output_dir: folder of all runs.
        name: for the configuration.

    Raises:
        ValueError: if another process chooses, or begins what it has chosen.
    """
    return _lock(
        output_dir / f".{name}{_LOCK_FILE}",
        ValueError(
            "resume=auto: another process is starting the run of this configuration in "
            f"{output_dir}: leave resume out to start a second one"
        ),
    )


def lock_study(folder: Path) -> BaseFileLock:
    """Takes the right to run and report a study.

    Raises:
        ValueError: if another process does.
    """
    return _lock(
        folder / f".study{_LOCK_FILE}",
        ValueError(f"another study is running in {folder}: wait for it, or give another --output"),
    )


def _lock(file: Path, taken: ValueError) -> BaseFileLock:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.is_symlink() or (file.exists() and not file.is_file()):
        what = "is a link" if file.is_symlink() else path_kind(file)
        raise _NoLock(f"{file} {what}, and a lock must be a file of its own: remove it")
    lock = FileLock(file)
    try:
        lock.acquire(timeout=_SECONDS, poll_interval=_SECONDS / 8)
    except Timeout as error:
        raise taken from error
    return lock


def release_new(lock: BaseFileLock) -> None:
    """Releases a lock and removes its file, which no later process needs to find."""
    Path(lock.lock_file).unlink(missing_ok=True)  # while no other one can take it
    lock.release()


def is_running(folder: Path) -> bool:
    """Whether a process holds the folder's lock.

    Raises:
        ValueError: if it is a link, a folder or the like.
    """
    if not (folder / _LOCK_FILE).exists():
        return False
    try:
        lock_run(folder).release()
    except RunningElsewhere:
        return True
    return False
