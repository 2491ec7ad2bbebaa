"""How likely continuations are, many at a time in packed rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from packformer.attention import PackedLayout
from packformer.data.packing import BestFitPacker, PackerState
from packformer.data.settings import PackingSettings
from packformer.data.source import Tokens, successors
from packformer.evaluation.logits import logits_in_parts
from packformer.model import GPT


class Continuation(NamedTuple):
    """Token ids to predict, and those before them.

    Attributes:
        context: at least one.
        tokens: at least one.
    """

    context: Sequence[int]
    tokens: Sequence[int]


class Likelihood(NamedTuple):
    """Of a continuation, given its context.

    Attributes:
        log_likelihood: sum over its tokens, in nats.
        is_greedy: whether each of its tokens is the likeliest one.
    """

    log_likelihood: float
    is_greedy: bool


@torch.no_grad()
def log_likelihoods(
    model: GPT,
    continuations: Sequence[Continuation],
    *,
    row_length: int,
    max_length: int | None = None,
    report: Callable[[int], None] = lambda count: None,
) -> list[Likelihood]:
    """Scores continuations; none sees another's tokens.

    The model reads context and continuation but for the last token. Where that is longer than
    ``max_length``, the context loses its beginning.

    Args:
        model: in evaluation mode, with kernels that run on its device.
        continuations: see ``Continuation``.
        row_length: tokens of a row; rows are longer where a continuation is.
        max_length: tokens that the model reads of one; None for the longest document that it was
            made for.
        report: told how many continuations a row held, when it is scored.

    Returns:
        One for each continuation, in their order.

    Raises:
        ValueError: if a continuation has no context or no token, is longer than the model reaches,
            or has a token outside the vocabulary.
    """
    reach = model.max_position
    source = _Sequences(
        continuations, model.vocab_size, reach if max_length is None else min(max_length, reach)
    )
    found: list[Likelihood | None] = [None] * len(continuations)
    for numbers in _rows(source, row_length):
        for number, likelihood in zip(numbers, _score(model, source, numbers), strict=True):
            found[number] = likelihood
        report(len(numbers))
    return [likelihood for likelihood in found if likelihood is not None]


class _Sequences:
    """Context and continuation as one document; a ``DocumentSource``."""

    def __init__(
        self, continuations: Sequence[Continuation], vocab_size: int, max_length: int
    ) -> None:
        self.num_documents = len(continuations)
        self._tokens = []
        self.sizes = [len(tokens) for _, tokens in continuations]
        for number, (context, tokens) in enumerate(continuations):
            if not len(context) or not len(tokens):
                raise ValueError(f"continuation {number} must have a context and a token, or more")
            if len(tokens) > max_length:
                raise ValueError(
                    f"continuation {number} has {len(tokens):,} tokens, the model reaches "
                    f"{max_length:,}: shorten it, or extend the model"
                )
            ids = np.array([*context, *tokens][-max_length - 1 :], np.int64)
            if ids.min() < 0 or ids.max() >= vocab_size:
                raise ValueError(
                    f"continuation {number} has a token id outside the model's vocabulary "
                    f"({vocab_size})"
                )
            self._tokens.append(ids)

    def length(self, index: int) -> int:
        return len(self._tokens[index])

    def piece(self, index: int, start: int, length: int) -> tuple[Tokens, Tokens]:
        tokens = self._tokens[index][start : start + length]
        return tokens, successors(tokens)


def _rows(source: _Sequences, row_length: int) -> Iterator[list[int]]:
    """Numbers of the continuations of each row."""
    if not source.num_documents:
        return
    longest = max(source.length(number) for number in range(source.num_documents))
    settings = PackingSettings(max(row_length, longest))
    packer = BestFitPacker(source, settings, max_documents=settings.row_length, seed=None, epochs=1)
    for pieces in packer.rows(PackerState()):
        yield [piece.document for piece in pieces]


def _score(model: GPT, source: _Sequences, numbers: list[int]) -> list[Likelihood]:
    device = model.embedding.weight.device
    sequences = [source.piece(number, 0, source.length(number))[0] for number in numbers]
    sizes = [source.sizes[number] for number in numbers]
    inputs = [sequence[:-1] for sequence in sequences]
    layout = PackedLayout.from_lengths([len(tokens) for tokens in inputs]).to(device)
    row_BM = torch.from_numpy(np.concatenate(inputs))[None].to(device)
    ends = np.cumsum([len(tokens) for tokens in inputs])
    predicting_N = [np.arange(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    x_ND = model.activations(row_BM, layout)[0, torch.from_numpy(np.concatenate(predicting_N))]
    targets_N = torch.from_numpy(
        np.concatenate([s[-size:] for s, size in zip(sequences, sizes, strict=True)])
    ).to(device)
    log_likelihoods_N, is_greedy_N = _of_tokens(model, x_ND, targets_N)
    return [
        Likelihood(float(likelihoods.sum()), bool(is_greedy.all()))
        for likelihoods, is_greedy in zip(
            log_likelihoods_N.split(sizes), is_greedy_N.split(sizes), strict=True
        )
    ]


def _of_tokens(model: GPT, x_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Log-likelihood of each target, float64 ``[N]``, and whether it is the likeliest."""
    likelihoods, is_greedy, start = [], [], 0
    for logits_NV in logits_in_parts(model, x_ND):
        targets = targets_N[start : start + len(logits_NV)]
        start += len(logits_NV)
        likelihoods.append(-F.cross_entropy(logits_NV, targets, reduction="none").double())
        is_greedy.append(logits_NV.argmax(-1) == targets)
    return torch.cat(likelihoods).cpu(), torch.cat(is_greedy).cpu()
