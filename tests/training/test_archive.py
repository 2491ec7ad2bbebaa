"""Every byte of a sealed archive counts."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from packformer.training.archive import check_archive, seal


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "a.ckpt"
    torch.save({"a": torch.arange(20.0), "b": [torch.ones(3), "words"]}, file)
    return file


def _is_refused(file: Path, content: bytes) -> bool:
    file.write_bytes(content)
    try:
        check_archive(file)
    except Exception:
        return True
    return False


def test_a_sealed_archive_is_read_by_torch(file: Path) -> None:
    before = torch.load(file, weights_only=True)
    seal(file)
    check_archive(file)
    for mmap in (True, False):
        assert torch.load(file, weights_only=True, mmap=mmap)["b"][1] == before["b"][1]
        assert torch.equal(torch.load(file, weights_only=True, mmap=mmap)["a"], before["a"])


def test_flipped_bits_are_found(file: Path) -> None:
    seal(file)
    whole = file.read_bytes()
    draw = random.Random(0)
    for place in range(0, len(whole), 5):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << draw.randrange(8)
        assert _is_refused(file, bytes(flipped)), f"byte {place} of {len(whole)}"
    assert not _is_refused(file, whole)


def test_other_lengths_are_found(file: Path) -> None:
    seal(file)
    whole = file.read_bytes()
    for length in (*range(0, len(whole), 67), *range(len(whole) - 60, len(whole))):
        assert _is_refused(file, whole[:length]), f"{length} bytes of {len(whole)}"
    assert _is_refused(file, whole + b"\0")


def test_an_archive_from_before_has_no_seal(file: Path) -> None:
    check_archive(file)
    whole = bytearray(file.read_bytes())
    whole[whole.index(torch.arange(20.0).numpy().tobytes()) + 5] ^= 1
    assert _is_refused(file, bytes(whole))
