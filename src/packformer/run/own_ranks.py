"""Starts a run's other ranks, with the command of rank 0."""

from __future__ import annotations

import os
import sys

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString

import __main__
from packformer.ranks.others import start_others


def start_own_ranks(devices: int) -> None:
    """Starts them unless they run, on ``devices`` devices of this machine; see ``start_others``."""
    start_others(devices, _command, HydraConfig.get().runtime.cwd)


def _command(number: int) -> list[str]:
    """This process's command. The folder is the same, and rank 0 alone writes Hydra's files."""
    if __main__.__spec__ is None:
        command = [sys.executable, os.path.abspath(sys.argv[0])]
    else:
        command = [sys.executable, "-m", __main__.__spec__.name]
    where = QuotedString(str(HydraConfig.get().run.dir), Quote.double).with_quotes()
    command += [*sys.argv[1:], f"hydra.run.dir={where}", "hydra.output_subdir=null"]
    return [*command, f"hydra.job.name=rank_{number}"]
