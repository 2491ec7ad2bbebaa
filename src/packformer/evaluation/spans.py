"""Sums of tokens, by length of the document and by position."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from packformer.evaluation.score import Score, Span


def upper_ends(longest: int, also: int) -> NDArray[np.int64]:
    """Last lengths of spans that double, 2, 4, 8, ..., so that the last holds ``longest``.

    Args:
        longest: at least 2.
        also: another end, from 2 up, if it is not longer than ``longest``.
    """
    ends = {2 ** (n + 1) for n in range((longest - 1).bit_length())}
    return np.array(sorted(ends | {also} if 2 <= also <= longest else ends), np.int64)


class Sums:
    """Nats, tokens and bytes of each span.

    Args:
        ends: last number of each span, ascending.
        device: where nats are added up.
    """

    def __init__(self, ends: NDArray[np.int64], device: torch.device) -> None:
        self._ends = ends
        self._nats = torch.zeros(len(ends), dtype=torch.float64, device=device)
        self._tokens = np.zeros(len(ends), np.int64)
        self._bytes: NDArray[np.int64] | None = None

    def add(
        self,
        numbers_N: NDArray[np.int64],
        nats_N: Tensor,
        bytes_N: NDArray[np.int64] | None,
    ) -> None:
        """Adds tokens.

        Args:
            numbers_N: of each token: what decides on its span.
            nats_N: float64 ``[N]``, of each.
            bytes_N: of each; None if they are not known.
        """
        spans_N = np.searchsorted(self._ends, numbers_N)
        self._nats.index_add_(0, torch.from_numpy(spans_N).to(nats_N.device), nats_N)
        self._tokens += np.bincount(spans_N, minlength=len(self._ends))
        if bytes_N is not None:
            self._bytes = np.zeros_like(self._tokens) if self._bytes is None else self._bytes
            np.add.at(self._bytes, spans_N, bytes_N)

    def spans(self, count: Callable[[int, int], int]) -> tuple[Span, ...]:
        """The spans that hold a token.

        Args:
            count: how many documents belong to a span, from its first and last number.
        """
        firsts = [2, *(self._ends[:-1] + 1).tolist()]
        sizes = [None] * len(firsts) if self._bytes is None else self._bytes.tolist()
        columns = zip(
            firsts,
            self._ends.tolist(),
            self._nats.tolist(),
            self._tokens.tolist(),
            sizes,
            strict=True,
        )
        return tuple(
            Span(first, last, count(first, last), Score(nats, tokens, size))
            for first, last, nats, tokens, size in columns
            if tokens
        )


def summed(spans: tuple[Span, ...]) -> Score:
    """All of them together."""
    sizes = [span.score.bytes for span in spans if span.score.bytes is not None]
    return Score(
        sum(span.score.nats for span in spans),
        sum(span.score.tokens for span in spans),
        sum(sizes) if sizes else None,
    )
