"""Where a trained model lies: found out without torch, which is slow to import."""

from __future__ import annotations

from pathlib import Path

from packformer.run.resume import CONFIG_FILE, LAST_CHECKPOINT

_BEST_CHECKPOINT = LAST_CHECKPOINT.with_name("best.ckpt")
_CONFIG_OF_TRANSFORMERS = "config.json"


def is_exported(path: Path) -> bool:
    """Whether it is a folder of ``transformers``, and no run's."""
    return (path / _CONFIG_OF_TRANSFORMERS).is_file() and not (path / CONFIG_FILE).is_file()


def checkpoint_of(path: Path) -> Path:
    """``path``, or the best checkpoint of the run folder it is, else the last.

    Raises:
        ValueError: if there is none.
    """
    if path.is_file():
        return path
    found = [path / file for file in (_BEST_CHECKPOINT, LAST_CHECKPOINT) if (path / file).is_file()]
    if not found:
        what = "holds no checkpoint" if path.is_dir() else "does not exist"
        raise ValueError(
            f"{path} {what}: give a run folder, a checkpoint of one, or a folder of transformers"
        )
    return found[0]


def check_model(name: str) -> None:
    """Refuses a path at which no model lies; raises as ``checkpoint_of``."""
    path = Path(name).expanduser()
    if not is_exported(path):
        checkpoint_of(path)
