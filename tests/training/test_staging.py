"""Copies for a save: they stay as they were, in memory that is used again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from packformer.training.staging import KeptMemory

GPU = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    ],
)


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_every_save_has_the_numbers_of_its_time_in_the_same_memory(device: str) -> None:
    tensors = {
        "weight": torch.randn(64, 33, device=device),
        "step": torch.ones((), device=device),
        "nothing": torch.empty(0, device=device),
    }
    stager, places = KeptMemory(pinned=device == "cuda"), []
    for _ in range(3):
        staged = stager.stage(tensors)
        wanted = {name: tensor.cpu().clone() for name, tensor in tensors.items()}
        for tensor in tensors.values():
            tensor.add_(1)  # training goes on
        _check(staged, wanted)
        places.append(staged["weight"].data_ptr())
        assert staged["weight"].is_pinned() == (device == "cuda")
    assert len(set(places)) == 1


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_memory_reserved_during_training_is_that_of_the_saves(device: str) -> None:
    tensors = {f"weight {n}": torch.zeros(300, 33, device=device) for n in range(20)}
    stager = KeptMemory(pinned=device == "cuda")
    stager.reserve(tensors)
    for _ in range(50):
        for tensor in tensors.values():
            tensor.add_(1)  # meanwhile
    assert stager._reserved is not None
    stager._reserved.result()
    reserved = {copy.data_ptr() for copy in stager._stager._cached_storage_mapping.values()}
    staged = stager.stage({name: tensor[:] for name, tensor in tensors.items()})
    assert {copy.data_ptr() for copy in staged.values()} == reserved
    _check(staged, tensors)
    stager.close()


def _check(staged: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for name, tensor in wanted.items():
        assert staged[name].device.type == "cpu"
        torch.testing.assert_close(staged[name], tensor.cpu(), rtol=0, atol=0)
