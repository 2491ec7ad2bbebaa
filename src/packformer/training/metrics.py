"""Metrics as sums over counts: right however tokens are spread over batches and ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from packformer.attention import PackedLayout
from packformer.batch import IGNORE_INDEX
from packformer.mean_loss import bits_per_byte, mean_loss, perplexity


class _Sums(Metric):
    """Counts and sums in a precision of their own, whatever the model's.

    ``Module.to(dtype)``, which Lightning calls for ``bf16-true``, would round them.
    """

    full_state_update = False

    def __init__(self, dtype: torch.dtype, *names: str, size: tuple[int, ...] = ()) -> None:
        super().__init__()
        self._state_dtype, self._size = dtype, size
        for name in names:
            self.add_state(name, torch.zeros(size, dtype=dtype), dist_reduce_fx="sum")

    def _apply(self, fn: Any, exclude_state: Sequence[str] = "") -> torch.nn.Module:
        applied = super()._apply(fn, exclude_state)
        for name in self._defaults:
            setattr(self, name, getattr(self, name).to(self._state_dtype))
            self._defaults[name] = torch.zeros(self._size, dtype=self._state_dtype)
        return applied


class TokenLoss(_Sums):
    """Mean negative log-likelihood per counted token, and what follows from it.

    ``compute`` gives ``loss`` (nats per token), ``perplexity`` and, if bytes were counted,
    ``bits_per_byte``: comparable between tokenizers.
    """

    nll: Tensor
    num_targets: Tensor
    num_bytes: Tensor

    def __init__(self) -> None:
        super().__init__(torch.float64, "nll", "num_targets", "num_bytes")

    def update(self, nll: Tensor, num_targets: Tensor | int, num_bytes: Tensor | int = 0) -> None:
        """Adds a batch: summed nats, counted tokens, bytes of text these stand for."""
        self.nll += nll
        self.num_targets += num_targets
        self.num_bytes += num_bytes

    def update_finite(self, nll: Tensor, num_targets: int) -> None:
        """Adds a batch unless its nats are NaN or infinite."""
        finite = nll.isfinite()
        self.update(nll.where(finite, 0), finite * num_targets)

    def compute(self) -> dict[str, float]:
        """Metrics over everything added since the last reset."""
        nats = self.nll.item()
        loss = mean_loss(nats, self.num_targets.item())
        metrics = {"loss": loss, "perplexity": perplexity(loss)}
        if (bits := bits_per_byte(nats, self.num_bytes.item())) is not None:
            metrics["bits_per_byte"] = bits
        return metrics


class CorpusLoss(_Sums):
    """``loss`` and, if bytes were counted, ``bits_per_byte`` of each of several corpora.

    ``compute`` gives ``loss/NAME`` and ``bits_per_byte/NAME``. Weighted with their counted tokens
    the losses make up that of ``TokenLoss``.

    Args:
        names: of the corpora.
    """

    nll: Tensor
    num_targets: Tensor
    num_bytes: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(torch.float64, "nll", "num_targets", "num_bytes", size=(len(names),))
        self._names = tuple(names)

    def update(
        self, corpus: int, nll: Tensor, num_targets: int, num_bytes: Tensor | int = 0
    ) -> None:
        """Adds a batch of the corpus of this number, see ``TokenLoss.update``."""
        self.nll[corpus] += nll
        self.num_targets[corpus] += num_targets
        self.num_bytes[corpus] += num_bytes

    def compute(self) -> dict[str, float]:
        """Metrics over everything added since the last reset."""
        losses, bits = {}, {}
        sums = (state.tolist() for state in (self.nll, self.num_targets, self.num_bytes))
        for name, nats, num_targets, num_bytes in zip(self._names, *sums, strict=True):
            losses[f"loss/{name}"] = mean_loss(nats, num_targets)
            if (of_one := bits_per_byte(nats, num_bytes)) is not None:
                bits[f"bits_per_byte/{name}"] = of_one
        return losses | bits


class AnswerAccuracy(_Sums):
    """How often the answers of a synthetic task are right.

    ``compute`` gives ``answer_accuracy``, over answer tokens, and ``exact_match``, over documents
    all of whose answers are right.
    """

    right_tokens: Tensor
    tokens: Tensor
    right_documents: Tensor
    documents: Tensor

    def __init__(self) -> None:
        super().__init__(torch.int64, "right_tokens", "tokens", "right_documents", "documents")

    def update(self, predictions: Tensor, targets: Tensor, layout: PackedLayout) -> None:
        """Adds a row: predicted ids and targets, both int64 ``[1, M]``."""
        counted_M = targets[0] != IGNORE_INDEX
        wrong_M = counted_M & (predictions[0] != targets[0])
        bounds = layout.cu_seqlens.long()
        counted_S = torch.nn.functional.pad(counted_M.cumsum(0), (1, 0))[bounds].diff()
        wrong_S = torch.nn.functional.pad(wrong_M.cumsum(0), (1, 0))[bounds].diff()
        self.tokens += counted_M.sum()
        self.right_tokens += counted_M.sum() - wrong_M.sum()
        self.documents += (counted_S > 0).sum()
        self.right_documents += ((counted_S > 0) & (wrong_S == 0)).sum()

    def compute(self) -> dict[str, float]:
        """Metrics over everything added since the last reset."""
        return {
            "answer_accuracy": (self.right_tokens / self.tokens).item(),
            "exact_match": (self.right_documents / self.documents).item(),
        }
