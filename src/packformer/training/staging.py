"""Copies tensors to main memory, where they are written while training changes them."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
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
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reserve")
        self._reserved: Future[None] | None = None

    def reserve(self, tensors: Mapping[str, Tensor]) -> None:
        """Begins to allocate the memory for copies of ``tensors``, in a thread of its own.

        Args:
            tensors: those that ``stage`` will copy, or others of the same storages.
        """
        device = torch.cuda.current_device() if self._pinned else None
        self._reserved = self._thread.submit(self._reserve, dict(tensors), device)

    def _reserve(self, tensors: dict[str, Tensor], device: int | None) -> None:
        # Training may change what is copied here: only the memory counts.
        if device is None:
            self._stager.stage(tensors)
            return
        stream = torch.cuda.Stream(device)  # training does not wait for this one
        with torch.cuda.device(device), torch.cuda.stream(stream):
            self._stager.stage(tensors, non_blocking=True)
            stream.synchronize()

    def stage(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Copies of all tensors; they last until the next call with the same tensors."""
        if self._reserved is not None:
            self._reserved.result()
            self._reserved = None
        copies = self._stager.stage(state_dict, non_blocking=self._pinned)
        if self._pinned:
            torch.cuda.synchronize()
        return copies

    def synchronize_staging(self) -> None:
        """Nothing is left to wait for: ``stage`` has copied."""

    def close(self) -> None:
        """Gives the memory back."""
        self._thread.shutdown()
        self._stager.close()
