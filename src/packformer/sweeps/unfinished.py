"""``resume=auto`` for a whole sweep: the newest one of the same command with jobs to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf, read_write

from packformer.bounded import read_yaml
from packformer.run.chosen import named
from packformer.run.lock import is_running

COMMAND_FILE = "multirun.yaml"
"""Hydra's, with the command of the sweep."""
_END_FILE = ".ended"
_FOLDER = "hydra.sweep.dir"
_NOT_OF_COMMAND = ("resume", "output_dir")


def mark_ended(sweep: Path) -> None:
    """Notes that all jobs of a sweep have finished."""
    (sweep / _END_FILE).touch()


def unfinished_sweep(config: DictConfig) -> Path | None:
    """The folder of the sweep that a sweep with ``resume=auto`` continues.

    Args:
        config: of the sweep, with Hydra's own.

    Returns:
        It; None for a new sweep, or if a folder was asked for.
    """
    hydra = config.hydra
    if config.get("resume") != "auto" or _FOLDER in named(hydra.overrides.hydra):
        return None
    wanted = _command(OmegaConf.to_container(hydra, resolve=False))
    found = [
        file.parent
        for file in Path(str(hydra.sweep.dir)).parent.glob(f"*/{COMMAND_FILE}")
        if not (file.parent / _END_FILE).exists() and _command_in(file) == wanted
    ]
    free = [sweep for sweep in found if not any(map(is_running, sweep.glob("*/")))]
    return max(free, key=lambda sweep: (sweep / COMMAND_FILE).stat().st_mtime, default=None)


def go_on_in(sweep: Path, config: DictConfig) -> None:
    """Makes a sweep one in the folder ``sweep``, and its jobs, which are composed anew."""
    folder = QuotedString(str(sweep), Quote.double).with_quotes()
    with read_write(config):
        config.hydra.sweep.dir = str(sweep)
        config.hydra.overrides.hydra.append(f"{_FOLDER}={folder}")


def _command_in(file: Path) -> list[Any] | None:
    try:
        settings = read_yaml(file)
    except (OSError, ValueError):
        return None
    return _command(settings.get("hydra")) if isinstance(settings, dict) else None


def _command(hydra: Any) -> list[Any] | None:
    """What decides on the jobs of a sweep; None if it cannot be told."""
    try:
        given, params = hydra["overrides"]["task"], hydra["sweeper"].get("params")
    except (KeyError, TypeError, AttributeError):
        return None
    names = named(given)
    told = [one for one, name in zip(given, names, strict=True) if name not in _NOT_OF_COMMAND]
    return [told, params]
