"""What a run has added up since its last record, as a checkpoint keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_PREFIX = "train_"  # of metrics of the Lightning module: train_loss, train_z_loss


def names_of_sums(state: Mapping[str, Any]) -> list[str]:
    """Those of the sums in the state of a Lightning module."""
    return sorted(name for name in state if name.startswith(_PREFIX))


def take_own_sums(state: dict[str, Any], own: Mapping[str, Tensor], *, keep: bool) -> None:
    """Makes the sums of a checkpoint those that this run adds up: its settings may have changed.

    Args:
        state: of the Lightning module in the checkpoint; changed in place.
        own: the same, of this run. A sum that the checkpoint lacks begins with 0.
        keep: whether this rank continues with the values, which are those of all ranks together.
    """
    for name in names_of_sums(state):
        if name not in own:
            del state[name]
    for name in names_of_sums(own):
        kept = state.get(name) if keep else None
        state[name] = torch.zeros_like(own[name], device="cpu") if kept is None else kept
