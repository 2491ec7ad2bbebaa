"""Logits of many tokens, a bounded number of them at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from packformer.model import GPT

_NUMBERS = 2**25  # of logits at once: 128 MiB in float32


def logits_in_parts(model: GPT, x_ND: Tensor) -> Iterator[Tensor]:
    """Logits of consecutive parts of ``x_ND``, together all of them.

    Args:
        model: whose head computes them.
        x_ND: ``[N, D]`` activations.

    Yields:
        ``[n, V]``, float32, or float64 from a head that computes in it.
    """
    for part in x_ND.split(max(1, _NUMBERS // model.vocab_size)):
        logits_NV: Tensor = model.head(part)
        yield logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
