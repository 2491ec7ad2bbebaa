"""What an earlier sweep left in a folder, and which job may continue it."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from packformer.bounded import read_json
from packformer.counted import counted
from packformer.run.binding import (
    binding_differences,
)
from packformer.run.of_sweep import another_folder
from packformer.run.resume import (
    CONFIG_FILE,
    LAST_CHECKPOINT,
    SUMMARY_FILE,
    checkpoints_in,
    differences,
    read_configuration,
    same_run,
    shown,
)

_TOLD = 3  # settings, at most


def holds_run(folder: Path) -> bool:
    """Whether a run began in ``folder``."""
    return (folder / CONFIG_FILE).is_file()


def is_same_job(settings: dict[str, Any], folder: Path) -> bool:
    """Whether the run in ``folder`` has the settings of a job, resolved and as plain types."""
    return holds_run(folder) and same_run(former_settings(folder), settings)


def former_settings(folder: Path) -> dict[str, Any]:
    """Those of the run in ``folder``, as they were given."""
    file = folder / CONFIG_FILE
    return _read(file, file.stat().st_mtime_ns)


@lru_cache  # every job of a sweep is compared with every run
def _read(file: Path, changed: int) -> dict[str, Any]:
    return read_configuration(file)


def finished_before(config: DictConfig, folder: Path) -> float | None:
    """The objective of a job that an earlier sweep in the same folder finished; None if none did"""
    if not (folder / SUMMARY_FILE).is_file() or not is_same_job(_plain(config), folder):
        return None
    return objective_of(folder, config.objective)


def objective_of(folder: Path, name: str) -> float:
    """What the finished run in ``folder`` returned."""
    file = folder / SUMMARY_FILE
    try:
        value = read_json(file)[name]
        return math.nan if value is None else float(value)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} is no summary of a run ({error}): remove it") from error


def goes_on(config: DictConfig, folder: Path) -> bool:
    """Whether a job resumes the run in ``folder``: its own, or one with fewer steps than it asks.

    Raises:
        ValueError: if the job would overwrite a run of other settings.
    """
    settings = _plain(config)
    refuse_other_job(settings, folder)
    return holds_run(folder) and bool(checkpoints_in(folder))


def refuse_other_job(settings: dict[str, Any], folder: Path) -> None:
    """Refuses a job that would overwrite the run in ``folder``.

    Args:
        settings: of the job, resolved and as plain types.
        folder: of the job.

    Raises:
        ValueError: naming the settings that differ.
    """
    if reason := why_other(settings, folder):
        raise ValueError(
            f"{folder} is a job of other settings ({reason}): nothing is overwritten, give "
            f"{another_folder()}"
        )


def why_other(settings: dict[str, Any], folder: Path) -> str:
    """Why a job cannot continue the run in ``folder``; empty if it can, or there is none.

    It can with the settings of the run, and with others that a run may be resumed with if there
    are steps left to do.
    """
    if not holds_run(folder) or is_same_job(settings, folder):
        return ""
    former = former_settings(folder)
    binding = binding_differences(folder / LAST_CHECKPOINT, settings)
    told = told_differences(binding or differences(former, settings))
    if binding:
        return told
    if not checkpoints_in(folder):
        return f"{told}; it has no checkpoint to continue from"
    before, now = _steps(former), _steps(settings)
    finished = (folder / SUMMARY_FILE).is_file()
    return "" if now > before or (now == before and not finished) else told


def told_differences(different: list[tuple[str, object, object]]) -> str:
    """``model.width: 64 there, 32 here``, of a few settings."""
    told = [f"{key}: {shown(old)} there, {shown(new)} here" for key, old, new in different[:_TOLD]]
    more = len(different) - _TOLD
    return "; ".join([*told, *([f"{counted(more, 'more setting')}"] if more > 0 else [])])


def _steps(settings: dict[str, Any]) -> int:
    trainer = settings.get("trainer")
    steps = trainer.get("max_steps") if isinstance(trainer, dict) else None
    return steps if isinstance(steps, int) else 0


def _plain(config: DictConfig) -> dict[str, Any]:
    settings: Any = OmegaConf.to_container(config, resolve=True)
    return settings
