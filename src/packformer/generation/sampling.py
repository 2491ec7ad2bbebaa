"""Which token follows, given the logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from packformer.settings import check_sampling


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: divides the logits; at 0 the likeliest token is taken.
        top_k: only the k likeliest tokens are drawn from; None for all.
        top_p: only the fewest of them whose probabilities reach p together (Holtzman et al. 2020);
            None for all.
        seed: of the random numbers.

    Raises:
        ValueError: if a number is out of range.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_sampling(self.temperature, self.top_k, self.top_p, self.seed)

    def randoms(self, sequences: Sequence[int], steps: int) -> Tensor:
        """Uniform numbers in [0, 1) for ``choose``, float64 ``[steps, len(sequences)]``.

        Those of a sequence depend on its number and the seed alone, not on its neighbours.

        Args:
            sequences: their numbers.
            steps: tokens that are drawn for each.
        """
        columns = [
            np.random.Generator(np.random.Philox(key=[self.seed % 2**64, number])).random(steps)
            for number in sequences
        ]
        return torch.from_numpy(np.stack(columns, axis=1))

    def choose(self, logits_BV: Tensor, random_B: Tensor) -> Tensor:
        """The next token of each sequence, int64 ``[B]``: the quantile ``random_B`` of its tokens.

        A row without a number in it, as a diverged model gives, chooses token 0.
        """
        if self.temperature == 0:
            return logits_BV.argmax(-1)
        scaled_BV = logits_BV.float() / self.temperature
        ids_BV: Tensor | None = None
        if self.top_k is not None and self.top_k < scaled_BV.shape[-1]:
            scaled_BV, ids_BV = scaled_BV.topk(self.top_k)
        elif self.top_p is not None and self.top_p < 1:
            scaled_BV, ids_BV = scaled_BV.sort(descending=True)
        weights_BV = scaled_BV.softmax(-1, dtype=torch.float64)
        if self.top_p is not None and self.top_p < 1:
            before_BV = weights_BV.cumsum(-1) - weights_BV
            weights_BV = weights_BV.where(before_BV < self.top_p, 0)
        reached_BV = weights_BV.cumsum(-1)
        # A token of weight zero is never reached: equal sums go to the first of them.
        wanted_B1 = random_B[:, None] * reached_BV[:, -1:]
        place_B1 = torch.searchsorted(reached_BV, wanted_B1, right=True)
        place_B1 = place_B1.clamp(max=scaled_BV.shape[-1] - 1)
        return (place_B1 if ids_BV is None else ids_BV.gather(1, place_B1)).squeeze(1)
