"""Ranks that were started with other settings or data are found before the first step."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import distributed

import packformer
from packformer.run.resume import ABSENT, flat, is_part, shown

_MAY_DIFFER = (  # where things lie on a machine, and what is recorded of a run
    *("data.path", "data.tokenizer", "init_from", "output_dir", "resume"),
    *("callbacks", "logger", "trainer.devices"),
)
_TOLD = 3  # differences, at most


class SameRanks(L.Callback):
    """Ends a run whose ranks do not all train the same.

    Files may lie elsewhere on another machine, so the fingerprint of the data is compared instead.

    Args:
        config: the resolved configuration of this rank, plain types only.
        found: what this rank found on its machine, such as the data's fingerprint, by names to
            show.
    """

    def __init__(self, config: dict[str, Any], found: dict[str, Any]) -> None:
        settings = {key: v for key, v in flat(config).items() if not is_part(key, _MAY_DIFFER)}
        versions = {"packformer": packformer.__version__, "torch": torch.__version__}
        self._compared = {**settings, **found, **versions}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Called once the ranks can talk to one another.

        Raises:
            ValueError: in every rank, naming what differs.
        """
        if trainer.world_size == 1:
            return
        of_first = trainer.strategy.broadcast(self._compared)
        told: list[str | None] = [None] * trainer.world_size
        different = differences(of_first, self._compared, trainer.global_rank)
        distributed.all_gather_object(told, different)
        if first := next(filter(None, told), None):
            raise ValueError(first)


def differences(of_first: dict[str, Any], own: dict[str, Any], rank: int) -> str | None:
    """``the ranks differ: optimizer.learning_rate is 0.001 on rank 0 and 0.002 on rank 1``, and
    what to do; None if nothing differs."""
    different = [
        f"{key} is {shown(of_first.get(key, ABSENT))} on rank 0 and {shown(own.get(key, ABSENT))} "
        f"on rank {rank}"
        for key in sorted(of_first.keys() | own.keys())
        if of_first.get(key, ABSENT) != own.get(key, ABSENT)
    ]
    if not different:
        return None
    more = len(different) - _TOLD
    listed = [*different[:_TOLD], *([f"{more} more"] if more > 0 else [])]
    return (
        f"the ranks differ: {'; '.join(listed)}: start all ranks with the same "
        "command, versions and data"
    )
