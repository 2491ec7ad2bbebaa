"""Where metrics go: ``metrics.csv`` always, and any logger of Lightning's that is chosen."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from packformer.run import wandb
from packformer.run.metrics_file import csv_logger
from packformer.run.of_sweep import sweep_folder
from packformer.run.targets import naming
from packformer.settings import name_of
from packformer.training.incomplete import outlived

_NO_LOGGER = "logger.{} ({}) must be a logger of Lightning's, or null"
_OF_RUN = ("folder", "name", "group", "config")  # what `Loggers.start` hands on
_EXTRAS = {"TensorBoardLogger": ".[tensorboard]"}


class Loggers:
    """The loggers of a run: made before anything is written, started once its folder is there.

    A choice of ``conf/logger`` holds loggers by name, null for none, or is one itself. A logger
    that takes ``save_dir`` writes to the run's folder unless told otherwise. A node with
    ``_partial_: true`` is a function that starts a logger from the folder, name, sweep and
    configuration of the run.

    Args:
        chosen: the node ``logger`` of the configuration.
        folder: of the run.

    Raises:
        ValueError: if one is no logger, does not take its settings or lacks its package.
    """

    def __init__(self, chosen: DictConfig | None, folder: Path) -> None:
        self._folder = folder
        self._made = {name: _make(name, node, folder) for name, node in _nodes(chosen).items()}

    def start(self, name: str, plain: dict[str, Any], checkpoint: Path | None) -> list[Logger]:
        """Starts all loggers, ``metrics.csv`` first, and gives them the configuration.

        Args:
            name: of the run.
            plain: its configuration, resolved, as plain types.
            checkpoint: that the run continues from; None for a new one.
        """
        started: list[Logger] = [csv_logger(self._folder, checkpoint)]
        for key, made in self._made.items():
            if not isinstance(made, Logger):
                logger = made(folder=self._folder, name=name, group=_sweep(), config=plain)
                started.append(outlived(_checked(key, logger)))
                continue
            outlived(made).log_hyperparams(plain)
            started.append(made)
        return started


def check_loggers(chosen: DictConfig | None) -> None:
    """Refuses wrong loggers before data are read.

    Raises:
        ValueError: if ``logger`` holds something that is no logger, or W&B cannot run as asked.
    """
    for name, node in _nodes(chosen).items():
        if not isinstance(node, DictConfig) or "_target_" not in node:
            raise ValueError(
                f"logger.{name} ({node}) must have a _target_, a logger of Lightning's, or be null"
            )
        if node._target_ == f"{wandb.__name__}.wandb_logger":
            wandb.resolve_mode(node.mode)


@rank_zero_only
def build_loggers(chosen: DictConfig | None, folder: Path) -> Loggers | None:
    """The loggers of rank 0; None on the others."""
    return Loggers(chosen, folder)


def _nodes(chosen: DictConfig | None) -> Mapping[str, Any]:
    if chosen is None:
        return {}
    if not isinstance(chosen, DictConfig):
        raise ValueError(f"logger ({chosen}) must be a choice of conf/logger")
    if "_target_" in chosen:
        return {"_target_": chosen}
    return {str(name): node for name, node in chosen.items() if node is not None}


def _make(name: str, node: DictConfig, folder: Path) -> Any:
    try:
        make = instantiate(node, _convert_="all", _partial_=True)
        if node.get("_partial_"):
            return _checked_start(name, make)
        takes = inspect.signature(make.func).parameters
        if "save_dir" in takes and make.keywords.get("save_dir") is None:
            make = partial(make, save_dir=str(folder))
        with naming(f"logger.{name}", node):
            return _checked(name, make())
    except ImportError as error:
        extra = _EXTRAS.get(node._target_.rpartition(".")[2])
        cure = f"pip install '{extra}'" if extra else "install it"
        reason = " ".join(str(error).split())
        raise ValueError(f"logger.{name} lacks a package ({reason}): {cure}") from error
    except TypeError as error:
        raise ValueError(f"logger.{name} does not take its settings: {error}") from error


def _checked(name: str, made: Any) -> Logger:
    if not isinstance(made, Logger):
        raise ValueError(_NO_LOGGER.format(name, type(made).__name__))
    return made


def _checked_start(name: str, start: Any) -> Any:
    """A function that starts a logger, if it can be called as ``Loggers.start`` does."""
    if inspect.isclass(start.func) and not issubclass(start.func, Logger):
        raise ValueError(_NO_LOGGER.format(name, start.func.__name__))
    try:
        inspect.signature(start).bind(**dict.fromkeys(_OF_RUN))
    except TypeError as error:
        raise ValueError(
            f"logger.{name} ({name_of(start)}) with _partial_: true must take "
            f"{', '.join(_OF_RUN)} of the run ({error}): leave _partial_ out"
        ) from error
    return start


def _sweep() -> str | None:
    folder = sweep_folder()
    return None if folder is None else folder.name
