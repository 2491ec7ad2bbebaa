"""The loss of documents: of all together, by their length, and by position."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from packformer.batch import IGNORE_INDEX, PackedBatch
from packformer.data.packing import BestFitPacker, PackerState
from packformer.data.rows import collate_row
from packformer.data.settings import PackingSettings
from packformer.data.source import DocumentSource, Tokens
from packformer.evaluation.logits import logits_in_parts
from packformer.evaluation.score import Evaluation
from packformer.evaluation.spans import Sums, summed, upper_ends
from packformer.evaluation.windows import Windows
from packformer.model import GPT
from packformer.settings import check_whole

_SPARE_SLOTS = 2  # times the pieces of a mean row


@torch.no_grad()
def evaluate(
    model: GPT,
    documents: DocumentSource,
    *,
    row_length: int,
    max_length: int | None = None,
    byte_lengths: Tokens | None = None,
    lookahead: int = 256,
    report: Callable[[int], None] = lambda tokens: None,
) -> Evaluation:
    """Scores every token of the documents once, in one pass over packed rows.

    A document's first token is predicted from nothing and not counted; texts begin with
    ``<|bos|>``, so all of a text is. Documents longer than ``max_length`` are scored in pieces that
    overlap by one token: no token is lost, but the first of a piece see little of the document.

    Computes on the model's device, in its dtype or in that of the autocast around the call. Sums
    are float64. In memory are one row, and 16 bytes per document.

    Args:
        model: with kernels that run there.
        documents: finite.
        row_length: M, tokens of a row; rows are longer where a piece is.
        max_length: of a piece, in tokens; None for the longest document the model was made for.
            A longer one needs position schemes that reach that far.
        byte_lengths: int64 ``[V]``, bytes of text that each token stands for; None for no bits per
            byte.
        lookahead: documents that the packer chooses from.
        report: called with the number of counted tokens of each row, once it is scored.

    Returns:
        The figures; the model is left as it was.

    Raises:
        ValueError: if ``documents`` is no source, there is nothing to predict, an argument is out
            of range, a position scheme ends before the longest piece, or a token lies outside the
            vocabulary.
    """
    check_whole("row_length", row_length, at_least=2)
    trained_length, was_training = model.max_position, model.training
    windows = _windows(documents, trained_length if max_length is None else max_length)
    _extend(model, windows.longest)
    model.eval()
    try:
        tally = _Tally(windows, trained_length, byte_lengths, model.embedding.weight.device)
        for lengths, batch in _rows(windows, row_length, lookahead):
            tally.add(model, lengths, batch)
            report(batch.num_targets)
    finally:
        model.train(was_training)
        model.max_position = trained_length
    return tally.evaluation()


def check_documents(
    model: GPT, documents: DocumentSource, *, max_length: int | None = None
) -> None:
    """Refuses, before anything is scored, what ``evaluate`` would refuse of these arguments.

    The model's positions reach as far as the documents afterwards.

    Raises:
        ValueError: as ``evaluate``, but for tokens outside the vocabulary.
    """
    longest = model.max_position if max_length is None else max_length
    _extend(model, _windows(documents, longest).longest)


def _windows(documents: DocumentSource, max_length: int) -> Windows:
    if not all(hasattr(documents, name) for name in ("num_documents", "length", "piece")):
        raise ValueError(
            f"documents ({type(documents).__name__}) must be a source of documents: give "
            "packformer.Documents(...) of lists of token ids"
        )
    check_whole("max_length", max_length, at_least=2)
    if documents.num_documents is None:
        raise ValueError("documents without end cannot be evaluated: give a finite source")
    windows = Windows(documents, max_length)
    if not windows.num_documents:
        raise ValueError("there is no document of two tokens or more: nothing can be predicted")
    return windows


def _extend(model: GPT, longest: int) -> None:
    trained_length = model.max_position
    try:
        model.extend(longest)
    except ValueError as error:
        raise ValueError(
            f"documents of {longest:,} tokens are longer than in training ({trained_length:,}), "
            f"and {error}: a max_length of {trained_length} scores them in pieces"
        ) from error


def _rows(
    windows: Windows, row_length: int, lookahead: int
) -> Iterator[tuple[Tokens, PackedBatch]]:
    """Packed rows of one shape; of each, the tokens of the whole document of each piece."""
    row_length = max(windows.longest, min(row_length, windows.num_tokens))
    mean = windows.num_tokens / windows.num_documents
    max_pieces = min(windows.num_documents, math.ceil(_SPARE_SLOTS * row_length / mean))
    packer = BestFitPacker(
        windows,
        PackingSettings(row_length, lookahead=lookahead),
        max_documents=max_pieces,
        seed=None,
        epochs=1,
    )
    for pieces in packer.rows(PackerState()):
        batch = collate_row(
            windows,
            pieces,
            row_length=row_length,
            max_seqlen=windows.longest,
            max_documents=max_pieces,
            packer_state={},
        )
        yield windows.document_lengths([piece.document for piece in pieces]), batch


class _Tally:
    """What is counted, by length of the document and by position."""

    def __init__(
        self,
        windows: Windows,
        trained_length: int,
        byte_lengths: Tokens | None,
        device: torch.device,
    ) -> None:
        self._windows = windows
        self._trained_length = trained_length
        self._byte_lengths = byte_lengths
        ends = upper_ends(int(windows.lengths.max()), trained_length)
        self._by_length, self._by_position = Sums(ends, device), Sums(ends, device)

    def add(self, model: GPT, lengths: Tokens, batch: PackedBatch) -> None:
        """Scores a row of pieces, of documents of ``lengths`` tokens."""
        counted_N = torch.nonzero(batch.targets[0] != IGNORE_INDEX)[:, 0]
        targets_N = batch.targets[0, counted_N]
        most = max(int(batch.tokens.max()), int(targets_N.max()) if len(targets_N) else 0)
        if most >= model.vocab_size:
            raise ValueError(
                f"the token id {most} lies outside the model's vocabulary ({model.vocab_size}): "
                "give documents of its own tokenizer"
            )
        nats_N = _nats(model, batch, counted_N, targets_N)
        counted = counted_N.numpy()
        bytes_N = None if self._byte_lengths is None else self._byte_lengths[targets_N.numpy()]
        lengths_M = np.repeat(lengths, batch.lengths)  # no padding is counted
        self._by_length.add(lengths_M[counted], nats_N, bytes_N)
        # The first token of a piece predicts the second one.
        self._by_position.add(batch.layout.position_ids.numpy()[counted] + 2, nats_N, bytes_N)

    def evaluation(self) -> Evaluation:
        """The figures."""
        lengths = self._windows.lengths
        by_length = self._by_length.spans(lambda first, last: _count(lengths, first, last))
        return Evaluation(
            total=summed(by_length),
            documents=int((lengths > 1).sum()),
            by_length=by_length,
            by_position=self._by_position.spans(lambda first, _: _count(lengths, first, math.inf)),
            trained_length=self._trained_length,
            max_length=self._windows.limit,
            split=int((lengths > self._windows.limit).sum()),
            unscored=int((lengths < 2).sum()),
        )


def _count(lengths: Tokens, first: float, last: float) -> int:
    return int(((lengths >= max(2, first)) & (lengths <= last)).sum())


def _nats(model: GPT, batch: PackedBatch, counted_N: Tensor, targets_N: Tensor) -> Tensor:
    """Negative log-likelihood of each counted target, float64 ``[N]`` on the model's device."""
    device = model.embedding.weight.device
    row = batch.to(device)
    x_ND = model.activations(row.tokens, row.layout)[0, counted_N.to(device)]
    nats, start = [x_ND.new_empty(0, dtype=torch.float64)], 0
    for logits_NV in logits_in_parts(model, x_ND):
        targets = targets_N[start : start + len(logits_NV)].to(device)
        nats.append(F.cross_entropy(logits_NV, targets, reduction="none").double())
        start += len(logits_NV)
    return torch.cat(nats)
