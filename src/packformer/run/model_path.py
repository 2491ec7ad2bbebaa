"""Where a trained model lies: found out without torch, which is slow to import."""

from __future__ import annotations

from pathlib import Path

from packformer.path_kind import path_kind
from packformer.run.resume import CONFIG_FILE, LAST_CHECKPOINT, run_folder

_BEST_CHECKPOINT = LAST_CHECKPOINT.with_name("best.ckpt")
_CONFIG_OF_TRANSFORMERS = "config.json"
_NEEDED = "give a run folder, a checkpoint of one, or a folder of transformers"


def is_exported(path: Path) -> bool:
    """Whether it is a folder of ``transformers``, and no run's."""
    return (path / _CONFIG_OF_TRANSFORMERS).is_file() and not (path / CONFIG_FILE).is_file()


def checkpoint_of(path: Path, shown: str | None = None) -> Path:
    """``path``, or the best checkpoint of the run folder it is, else the last.

    Args:
        path: given.
        shown: how a message calls it; the path itself if None.

    Raises:
        ValueError: if there is none.
    """
    if path.is_file():
        return path
    found = [path / file for file in (_BEST_CHECKPOINT, LAST_CHECKPOINT) if (path / file).is_file()]
    if not found:
        what = "holds no checkpoint" if path.is_dir() else path_kind(path)
        raise ValueError(f"{shown or path} {what}: {_NEEDED}")
    return found[0]


def weights_at(name: str) -> Path:
    """What ``load`` reads of a path: a checkpoint, or a folder of ``transformers``.

    Raises:
        ValueError: if there is none.
    """
    path = Path(name).expanduser()
    return path if is_exported(path) else checkpoint_of(path)


def check_model(name: str, shown: str | None = None) -> None:
    """Refuses a path at which no model lies.

    Args:
        name: the path.
        shown: how a message calls it; the path itself if None.

    Raises:
        ValueError: as of ``checkpoint_of``, or if a checkpoint lies in no run folder.
    """
    path = Path(name).expanduser()
    if is_exported(path):
        return
    if run_folder(checkpoint := checkpoint_of(path, shown)) is None:
        raise ValueError(
            f"{shown or path} lies in no run folder, there is no {CONFIG_FILE} above "
            f"{checkpoint.parent}: {_NEEDED}"
        )
