"""Spikes: above the mean of the steps before by so many standard deviations."""

from __future__ import annotations

import math
import random
import statistics

import pytest
import torch

from packformer.training.spikes import Spikes


def found(spikes: Spikes, losses: list[float], norms: list[float]) -> list[bool]:
    pairs = zip(losses, norms, strict=True)
    return [bool(spikes.is_spike(torch.tensor(a), torch.tensor(b))) for a, b in pairs]


def wanted(values: list[float], sigma: float, window: int) -> list[bool]:
    """As the formula says it."""
    result = []
    for number, value in enumerate(values):
        known = [v for v in values[max(0, number - window) : number] if math.isfinite(v)]
        enough = len(known) >= max(2, window // 2) and math.isfinite(value)
        result.append(enough and value - statistics.mean(known) > sigma * statistics.stdev(known))
    return result


def some_values(seed: int) -> list[float]:
    draw = random.Random(seed)
    values = [draw.gauss(5, 1) for _ in range(60)]
    for number, value in {11: 50.0, 30: math.nan, 31: math.inf, 40: 12.0, 41: 12.0}.items():
        values[number] = value
    return values


@pytest.mark.parametrize(("sigma", "window"), [(2.0, 8), (3.0, 16), (6.0, 5)])
def test_what_stands_out_is_found_in_loss_and_norm(sigma: float, window: int) -> None:
    losses, norms = some_values(0), some_values(1)[::-1]
    of_losses, of_norms = (wanted(values, sigma, window) for values in (losses, norms))
    assert any(of_losses)
    assert any(of_norms)
    assert found(Spikes(sigma, window), losses, norms) == [
        a or b for a, b in zip(of_losses, of_norms, strict=True)
    ]


def test_a_level_that_stays_is_no_spike_for_long() -> None:
    values = some_values(2)[:10] + [30.0 + number / 10 for number in range(10)]
    spikes = found(Spikes(3.0, 8), values, [1.0 + v / 1e3 for v in values])
    assert spikes[10]
    assert not any(spikes[13:])


@pytest.mark.parametrize("stopped_at", [0, 3, 8, 25])
def test_what_is_remembered_goes_on_exactly(stopped_at: int) -> None:
    losses, norms = some_values(0), some_values(1)
    whole = found(Spikes(2.0, 8), losses, norms)
    first, second = Spikes(2.0, 8), Spikes(2.0, 8)
    begun = found(first, losses[:stopped_at], norms[:stopped_at])
    second.load_state_dict(first.state_dict())
    assert begun + found(second, losses[stopped_at:], norms[stopped_at:]) == whole


def test_another_window_begins_anew() -> None:
    first, second = Spikes(2.0, 8), Spikes(2.0, 4)
    found(first, some_values(0), some_values(1))
    second.load_state_dict(first.state_dict())
    assert not any(found(second, [1.0, 1e9], [1.0, 1e9]))
