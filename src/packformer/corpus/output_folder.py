"""The folder that a corpus is prepared into: whose it is, and what is left of a failure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from packformer.corpus.journal import JOURNAL
from packformer.corpus.request import Preparation
from packformer.corpus.shards import MANIFEST

STANDARD_INPUT_FILE = ".standard-input"
"""What came through a pipe, until the corpus is complete."""

_LOCK = ".lock"
_NEW_JOURNAL = f"{JOURNAL}.new"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Makes the folder and keeps other processes out of it while the body runs.

    If there is nothing to continue from then, it is left as it was.

    Raises:
        ValueError: if another process holds it.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    was_empty = not any(folder.iterdir())
    try:
        with FileLock(folder / _LOCK, timeout=0):
            yield
    except Timeout as error:
        raise ValueError(f"another process is preparing into {folder}: wait for it") from error
    finally:
        left = {file.name for file in folder.iterdir()}
        if was_empty and left <= {_LOCK, JOURNAL, _NEW_JOURNAL}:
            for name in left:
                (folder / name).unlink()
            if is_new:
                folder.rmdir()


def check_apart(preparation: Preparation) -> None:
    """Refuses an output folder inside the input, or one that holds other files.

    Raises:
        ValueError: naming both.
    """
    folder = preparation.output.resolve()
    for path in preparation.input.paths:
        given = Path(path).expanduser()
        if not given.is_dir() or not folder.is_relative_to(given.resolve()):
            continue
        below = folder.relative_to(given.resolve()).parts
        if not any(part.startswith(".") for part in below):  # hidden folders are not read
            raise ValueError(f"{preparation.output} lies within the input {path}: choose another")
    if folder.is_dir() and not any((folder / name).exists() for name in (MANIFEST, JOURNAL)):
        ours = (_LOCK, STANDARD_INPUT_FILE, _NEW_JOURNAL)
        others = sorted(file.name for file in folder.iterdir() if file.name not in ours)
        if others:
            raise ValueError(
                f"{preparation.output} holds {others[0]} and is no corpus: choose an empty folder"
            )
