"""Loss, perplexity and bits per byte of sums, by hand and at their ends."""

from __future__ import annotations

import math

import pytest

from packformer.mean_loss import bits_per_byte, mean_loss, perplexity


def test_means_by_hand() -> None:
    assert mean_loss(6.0, 4) == 1.5
    assert perplexity(1.5) == math.exp(1.5)
    assert bits_per_byte(6.0, 3) == pytest.approx(2 / math.log(2))


def test_nothing_counted_has_no_loss() -> None:
    assert math.isnan(mean_loss(0.0, 0))
    assert math.isnan(perplexity(math.nan))
    assert bits_per_byte(6.0, 0) is None
    assert bits_per_byte(6.0, None) is None


def test_a_perplexity_that_is_no_float_is_infinite() -> None:
    assert perplexity(700.0) < math.inf
    assert perplexity(1e6) == perplexity(math.inf) == math.inf
