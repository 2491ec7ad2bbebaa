"""Ranks with other settings or data are named before the first step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from packformer.run.same_ranks import SameRanks, differences

CONFIG: dict[str, Any] = {
    "optimizer": {"learning_rate": 1e-3, "fused": None},
    "data": {"path": "/a"},
    "trainer": {"devices": 2, "rows_per_step": 4},
}
DATA = {"the data's fingerprint": "abc"}


def setup_as_rank_one(
    monkeypatch: pytest.MonkeyPatch, other: dict[str, Any], data: dict[str, Any]
) -> None:
    """Of two ranks, the first one with ``CONFIG`` and ``DATA``."""
    first = SameRanks(CONFIG, DATA)

    def gather(told: list[str | None], own: str | None) -> None:
        told[:] = [None, own]

    monkeypatch.setattr("torch.distributed.all_gather_object", gather)
    trainer: Any = SimpleNamespace(
        world_size=2,
        global_rank=1,
        strategy=SimpleNamespace(broadcast=lambda own: first._compared),
    )
    SameRanks(other, data).setup(trainer, None, "fit")  # type: ignore[arg-type]


def test_files_may_lie_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {**CONFIG, "data": {"path": "/b"}, "trainer": {"devices": "0,1", "rows_per_step": 4}}
    setup_as_rank_one(monkeypatch, there, DATA)


def test_other_settings_and_data_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    other = {**CONFIG, "optimizer": {"learning_rate": 2e-3}}
    with pytest.raises(ValueError, match="^[^\n]+$") as caught:
        setup_as_rank_one(monkeypatch, other, {"the data's fingerprint": "xyz"})
    assert str(caught.value) == (
        "the ranks differ: optimizer.fused is null on rank 0 and absent on rank 1; "
        "optimizer.learning_rate is 0.001 on rank 0 and 0.002 on rank 1; the data's fingerprint is "
        "abc on rank 0 and xyz on rank 1: start all ranks with the same command, versions and data"
    )


def test_not_all_of_many_differences_are_told() -> None:
    told = differences({str(n): 0 for n in range(9)}, {}, 3)
    assert told is not None
    assert "; 6 more: start" in told
    assert told.startswith("the ranks differ: ")  # who tells it adds its rank
