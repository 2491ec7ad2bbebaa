"""What ranks count between two records, and what it comes to over all of them."""

from __future__ import annotations

from dataclasses import dataclass

import lightning as L
import torch
from torch import Tensor

from packformer.batch import PackedBatch


@dataclass(frozen=True)
class Totals:
    """Over all ranks.

    Attributes:
        targets: counted tokens.
        flops: that their true document lengths need.
        tokens: of documents, padding left out.
        row_tokens: padding included.
        data_wait: seconds that a rank waited for data, the mean.
        rank_wait: seconds that a rank waited for the others' gradients, the mean.
        imbalance: attention's work on the rank that has most in each step, over the mean of all
            ranks: 1.1 if the others could have done with a tenth less time. NaN without a step.
    """

    targets: int
    flops: float
    tokens: int
    row_tokens: int
    data_wait: float
    rank_wait: float
    imbalance: float


class RankCounts:
    """Counts of this rank.

    Ranks exchange them at records and when they save, never in a step.
    """

    def __init__(self) -> None:
        self._targets = self._flops = self._tokens = self._row_tokens = 0
        self._work = [0]

    def add(self, batch: PackedBatch, flops: int, attention: int) -> None:
        """A row was trained on.

        Args:
            batch: the row.
            flops: that it needs.
            attention: work of attention among them, up to a factor.
        """
        self._targets += batch.num_targets
        self._flops += flops
        self._tokens += batch.num_tokens
        self._row_tokens += batch.layout.num_tokens
        self._work[-1] += attention

    def step_ended(self) -> None:
        """The rows that follow are of another step."""
        self._work.append(0)

    def over_ranks(
        self, trainer: L.Trainer | None, *, data_wait: float = 0.0, rank_wait: float = 0.0
    ) -> Totals:
        """All ranks must call it.

        Args:
            trainer: None where there is but one rank.
            data_wait: seconds of this rank.
            rank_wait: seconds of this rank.
        """
        own = [self._targets, self._flops, self._tokens, self._row_tokens, data_wait, rank_wait]
        counts_WN = _gathered(trainer, [*own, *self._work])
        targets, flops, tokens, row_tokens = counts_WN[:, :4].sum(0).tolist()
        waits = counts_WN[:, 4:6].mean(0).tolist()
        work_WN = counts_WN[:, len(own) :]
        imbalance = work_WN.amax(0).sum() / work_WN.mean(0).sum()
        return Totals(
            int(targets), flops, int(tokens), int(row_tokens), waits[0], waits[1], imbalance.item()
        )


def _gathered(trainer: L.Trainer | None, values: list[float]) -> Tensor:
    """The values of every rank, ``[W, N]``, on the CPU."""
    own = torch.tensor(values, dtype=torch.float64)
    if trainer is None or trainer.world_size == 1:
        return own[None]
    return trainer.strategy.all_gather(own.to(trainer.strategy.root_device)).cpu()
