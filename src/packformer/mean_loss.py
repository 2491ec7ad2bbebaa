"""What follows from summed losses: loss, perplexity, bits per byte; without importing torch."""

from __future__ import annotations

import math

_MOST_NATS = 700.0  # whose exponential is a float


def mean_loss(nats: float, num_tokens: float) -> float:
    """Nats per token; NaN of none.

    Args:
        nats: summed negative log-likelihoods.
        num_tokens: that were predicted.
    """
    return nats / num_tokens if num_tokens else math.nan


def perplexity(loss: float) -> float:
    """Exponential of a loss in nats per token; infinity where that is no float."""
    return math.inf if loss > _MOST_NATS else math.exp(loss)


def bits_per_byte(nats: float, num_bytes: float | None) -> float | None:
    """Comparable between tokenizers; None where no byte was counted.

    Args:
        nats: summed negative log-likelihoods.
        num_bytes: of the text that the predicted tokens stand for.
    """
    return nats / math.log(2) / num_bytes if num_bytes else None
