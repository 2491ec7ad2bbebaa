"""Peaks of memory."""

from pathlib import Path

import pytest
import torch

from packformer.training import memory
from packformer.training.memory import peak_gpu_bytes, peak_process_bytes

MIB = 2**20


def test_a_large_allocation_is_in_the_peak_after_it_is_gone():
    before = peak_process_bytes()
    block = bytearray(b"x") * (256 * MIB)
    del block
    assert peak_process_bytes() >= max(before, 256 * MIB)
    assert peak_process_bytes() < 64 * 2**30, "bytes, not KiB"


def test_where_linux_does_not_tell_the_process_does(monkeypatch):
    known = peak_process_bytes()
    monkeypatch.setattr(memory, "_STATUS", Path("/no/such/file"))
    assert peak_process_bytes() == pytest.approx(known, rel=1)


def test_a_cpu_has_no_gpu_memory():
    assert peak_gpu_bytes(torch.device("cpu")) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_tensors_of_the_gpu_are_counted():
    device = torch.device("cuda")
    torch.cuda.reset_peak_memory_stats()
    before = peak_gpu_bytes(device)
    block = torch.empty(64 * MIB, dtype=torch.uint8, device=device)
    del block
    assert peak_gpu_bytes(device) >= before + 64 * MIB
