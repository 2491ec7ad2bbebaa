"""What a run is called."""

from __future__ import annotations

import re

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from packformer.settings import as_text

_NOT_IN_NAME = (
    "experiment",
    "sweep",
    "resume",
    "output_dir",
    "logger",
    "callbacks",
    "hydra",
    "name",
)
_FOLDER_NAME = re.compile(r"\w[\w .+=-]*")


def run_name(config: DictConfig) -> str:
    """The experiment and what the command line changed of it."""
    overrides = [o.lstrip("+~") for o in HydraConfig.get().overrides.task]
    told = [o for o in overrides if o.partition("=")[0].split(".")[0] not in _NOT_IN_NAME]
    return " ".join([str(config.name), *told])


def check_name(name: object) -> None:
    """Refuses what cannot be part of a folder's name.

    Raises:
        ValueError: if ``name`` is no such word.
    """
    if not _FOLDER_NAME.fullmatch(as_text("name", name, "name")):
        raise ValueError(
            f"name ({name}) must begin with a letter or digit and hold only letters, digits, "
            "spaces and _ . + = -"
        )
