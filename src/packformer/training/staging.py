"""Copies tensors to main memory, where they are written while training changes them."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.checkpoint._state_dict_stager import StateDictStager
from torch.distributed.checkpoint.staging import AsyncStager


class KeptMemory(AsyncStager):
    """Copies into memory that is kept from one save to the next.

    Pinned memory takes seconds to allocate. torch's ``DefaultStager`` keeps it too, but that of
    torch 2.11 forgets it after each copy, and then fails at the next one
    (https://github.com/pytorch/pytorch/issues/183413).

    Args:
        pinned: whether tensors are copied from a GPU, into pinned memory.
    """

    _synchronize_after_execute = False

    def __init__(self, *, pinned: bool) -> None:
        self._pinned = pinned
        self._stager = StateDictStager(pin_memory=pinned)

    def stage(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Copies of all tensors; they last until the next call with the same tensors."""
        copies = self._stager.stage(state_dict, non_blocking=self._pinned)
        if self._pinned:
            torch.cuda.synchronize()
        return copies

    def synchronize_staging(self) -> None:
        """Nothing is left to wait for: ``stage`` has copied."""

    def close(self) -> None:
        """Gives the memory back."""
        self._stager.close()
