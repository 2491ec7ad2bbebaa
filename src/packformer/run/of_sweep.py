"""Whether a run is a job of a sweep, and of which."""

from __future__ import annotations

import os
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from packformer.ranks.launched import SWEEP
from packformer.run.shown_override import shown_override


def in_sweep() -> bool:
    """Whether the run of this process is a job of a sweep."""
    return HydraConfig.get().mode == RunMode.MULTIRUN or SWEEP in os.environ


def sweep_folder() -> Path | None:
    """The sweep's, if this run is a job of one."""
    if folder := os.environ.get(SWEEP):
        return Path(folder)
    return Path(HydraConfig.get().sweep.dir) if in_sweep() else None


def to_go_on(folder: Path) -> str:
    """What to do after an interruption of the run in ``folder``, or of its sweep."""
    sweep = sweep_folder()
    setting = ("resume", folder) if sweep is None else ("hydra.sweep.dir", sweep)
    where = shown_override(setting[0], str(setting[1]))
    return f"interrupted: go on with the same command and {where}"
