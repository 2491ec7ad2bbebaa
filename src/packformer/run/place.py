"""Where a run continues, and the folder it writes to; the same for all ranks."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from packformer.ranks.agreement import from_rank_zero
from packformer.run.of_sweep import in_sweep
from packformer.run.resume import (
    LAST_CHECKPOINT,
    SUMMARY_FILE,
    find_checkpoint,
    run_folder,
)
from packformer.run.shown_override import shown_override


def checkpoint_of(config: DictConfig, plain: dict[str, Any]) -> Path | None:
    """What the run continues; rank 0 decides about ``auto``, since others may look later."""

    def find() -> Path | None:
        return find_checkpoint(str(config.resume), Path(str(config.output_dir)), plain)

    if config.resume != "auto":
        return find()
    found = from_rank_zero("checkpoint", lambda: str(find() or ""))
    return Path(found) if found else None


def folder_of(checkpoint: Path | None, decision: str = "folder") -> Path:
    """The run's folder: Hydra's new one, or that of the run that ``checkpoint`` continues.

    Args:
        checkpoint: to continue from; None for a new run.
        decision: its name among the ranks; another one if it is decided again.

    Raises:
        ValueError: if another run has saved something in Hydra's.
    """
    return Path(from_rank_zero(decision, lambda: str(_folder(checkpoint))))


def _folder(checkpoint: Path | None) -> Path:
    new = Path(HydraConfig.get().runtime.output_dir)
    former = None if checkpoint is None else run_folder(checkpoint)
    if former == new.resolve():
        return new
    if former is None:
        if not in_sweep():  # which looks at the folders of its jobs beforehand
            _refuse_overwriting(new)
        return new
    if not in_sweep():  # a sweep reads the job's numbers there
        with suppress(OSError):  # not empty, or another rank was faster
            new.rmdir()
    return former


def _refuse_overwriting(folder: Path) -> None:
    checkpoints = (folder / LAST_CHECKPOINT).parent.glob("*.ckpt")
    if (folder / SUMMARY_FILE).is_file() or any(checkpoints):
        raise ValueError(
            f"hydra.run.dir ({folder}) holds a run, and nothing is overwritten: "
            f"{shown_override('resume', str(folder))} continues it; else give another folder"
        )
