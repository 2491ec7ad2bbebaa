"""What ranks count comes to one number over all of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from packformer.training.rank_counts import RankCounts


def batch(lengths: tuple[int, ...]) -> Any:
    return SimpleNamespace(
        num_targets=sum(lengths) - len(lengths),
        num_tokens=sum(lengths),
        lengths=lengths,
        layout=SimpleNamespace(num_tokens=8),
    )


def counts(*steps: tuple[tuple[int, ...], ...]) -> RankCounts:
    found = RankCounts()
    for number, step in enumerate(steps):
        if number:
            found.step_ended()
        for lengths in step:
            squares = sum(length**2 for length in lengths)
            found.add(batch(lengths), flops=10 * sum(lengths), attention=squares)
    return found


def test_counts_are_summed_waits_averaged_and_work_compared_step_by_step() -> None:
    first, second = counts(((6,), (2,)), ((4, 4),)), counts(((2, 2), (4,)), ((4,),))
    sent = []
    only = SimpleNamespace(all_gather=lambda own: sent.append(own) or own[None], root_device="cpu")
    trainer: Any = SimpleNamespace(world_size=2, strategy=only)
    second.over_ranks(trainer, data_wait=3.0, rank_wait=1.0)
    only.all_gather = lambda own: torch.stack([own, sent[0]])
    totals = first.over_ranks(trainer, data_wait=1.0, rank_wait=0.0)
    assert (totals.targets, totals.tokens, totals.row_tokens) == (20, 28, 48)
    assert totals.flops == 280
    assert (totals.data_wait, totals.rank_wait) == (2.0, 0.5)
    # Squares: 40 and 24 in the first step, 32 and 16 in the second.
    assert totals.imbalance == pytest.approx((40 + 32) / (32 + 24))


def test_one_rank_needs_no_other() -> None:
    totals = counts(((6,), (2,))).over_ranks(None)
    assert (totals.targets, totals.tokens, totals.imbalance) == (6, 8, 1.0)
