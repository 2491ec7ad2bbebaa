"""How likely continuations are, many at a time in packed rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from packformer.attention import PackedLayout
from packformer.data.in_memory import Documents
from packformer.data.packing import BestFitPacker, PackerState
from packformer.data.settings import PackingSettings
from packformer.data.source import Tokens
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
    asked = _Asked(
        continuations, model.vocab_size, reach if max_length is None else min(max_length, reach)
    )
    found: dict[int, Likelihood] = {}
    was_training = model.training
    model.eval()
    try:
        for documents in _rows(asked, row_length):
            scored = _score(model, asked, documents)
            found |= scored
            report(len(scored))
    finally:
        model.train(was_training)
    return [found[number] for number in range(len(continuations))]


class _Asked(Documents):
    """Contexts with their continuations, as documents.

    The model reads a document but for its last token. Continuations that differ in this token
    alone, as answers of one token to a question, share a document.

    Attributes:
        sharing: of each document, the numbers of its continuations.
        targets: of each continuation, its tokens.
    """

    def __init__(
        self, continuations: Sequence[Continuation], vocab_size: int, max_length: int
    ) -> None:
        documents: list[Tokens] = []
        self.sharing: list[list[int]] = []
        self.targets: list[Tokens] = []
        places: dict[bytes, int] = {}
        for number, continuation in enumerate(continuations):
            ids = _checked(number, continuation, vocab_size, max_length)
            place = places.setdefault(ids[:-1].tobytes(), len(places))
            if place == len(documents):
                documents.append(ids)
                self.sharing.append([])
            self.sharing[place].append(number)
            self.targets.append(ids[-len(continuation.tokens) :])
        super().__init__(documents)


def _checked(number: int, continuation: Continuation, vocab_size: int, max_length: int) -> Tokens:
    """Context and continuation, the context cut to what the model can read."""
    context, tokens = continuation
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
            f"continuation {number} has a token id outside the model's vocabulary ({vocab_size})"
        )
    return ids


def _rows(asked: _Asked, row_length: int) -> Iterator[list[int]]:
    """The documents of each row."""
    if not asked.num_documents:
        return
    longest = max(asked.length(number) for number in range(asked.num_documents))
    settings = PackingSettings(max(row_length, longest))
    packer = BestFitPacker(asked, settings, max_documents=settings.row_length, seed=None, epochs=1)
    for pieces in packer.rows(PackerState()):
        yield [piece.document for piece in pieces]


def _score(model: GPT, asked: _Asked, documents: list[int]) -> dict[int, Likelihood]:
    """Scores the continuations of a row of documents, by their numbers."""
    device = model.embedding.weight.device
    inputs = [asked.piece(place, 0, asked.length(place) - 1)[0] for place in documents]
    layout = PackedLayout.from_lengths([len(tokens) for tokens in inputs]).to(device)
    x_MD = model.activations(torch.from_numpy(np.concatenate(inputs))[None].to(device), layout)[0]
    ends = np.cumsum([len(tokens) for tokens in inputs])
    numbers, places = [], []
    for place, end in zip(documents, ends, strict=True):
        for number in asked.sharing[place]:
            numbers.append(number)
            places.append(np.arange(end - len(asked.targets[number]), end))
    predicting_N = torch.from_numpy(np.concatenate(places)).to(device)
    targets_N = torch.from_numpy(np.concatenate([asked.targets[n] for n in numbers])).to(device)
    sizes = [len(where) for where in places]
    likelihoods, is_greedy = (
        values.split(sizes) for values in _of_tokens(model, x_MD[predicting_N], targets_N)
    )
    return {
        number: Likelihood(float(nats.sum()), bool(greedy.all()))
        for number, nats, greedy in zip(numbers, likelihoods, is_greedy, strict=True)
    }


def _of_tokens(model: GPT, x_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Log-likelihood of each target, float64 ``[N]``, and whether it is the likeliest."""
    likelihoods, is_greedy, start = [], [], 0
    for logits_NV in logits_in_parts(model, x_ND):
        targets = targets_N[start : start + len(logits_NV)]
        start += len(logits_NV)
        likelihoods.append(-F.cross_entropy(logits_NV, targets, reduction="none").double())
        is_greedy.append(logits_NV.argmax(-1) == targets)
    return torch.cat(likelihoods).cpu(), torch.cat(is_greedy).cpu()
