"""Means, differences and how sure they are, over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.05
"""Probability of telling two equal variants apart that is accepted, over all comparisons."""
CONFIDENCE = 0.95
POWER = 0.8
"""Probability of telling a difference that the number of seeds is planned for."""
MOST_SEEDS = 1000
"""More seeds than this are told as more than this."""
_NODES = 200  # of an integral


@dataclass(frozen=True)
class Mean:
    """A mean over seeds with its confidence interval.

    Attributes:
        value: the mean; NaN of nothing.
        low: end of the interval; NaN of fewer than two numbers.
        high: the other end.
        deviation: standard deviation over seeds; NaN of fewer than two.
        count: how many seeds.
    """

    value: float
    low: float
    high: float
    deviation: float
    count: int


@dataclass(frozen=True)
class Difference:
    """Paired differences of a variant from the reference, seed by seed.

    Attributes:
        mean: of the differences, variant minus reference.
        p_value: of Student's paired test, two-sided; NaN of fewer than two pairs.
        relative: the mean of the differences, divided by the mean of the reference.
    """

    mean: Mean
    p_value: float
    relative: float


def mean_of(values: Sequence[float]) -> Mean:
    """Mean and its 95 % confidence interval of Student's t distribution.

    ``mean ± t(0.975, n - 1) s / sqrt(n)``, with the standard deviation ``s`` of n - 1 degrees of
    freedom.
    """
    given = np.asarray(values, np.float64)
    count = len(given)
    if count < 2:
        value = float(given[0]) if count else math.nan
        return Mean(value, math.nan, math.nan, math.nan, count)
    value, deviation = float(given.mean()), float(given.std(ddof=1))
    half = _student().ppf((1 + CONFIDENCE) / 2, count - 1) * deviation / math.sqrt(count)
    return Mean(value, value - float(half), value + float(half), deviation, count)


def difference_of(variant: Sequence[float], reference: Sequence[float]) -> Difference:
    """The difference of two variants, paired by seed.

    Pairs share their seed, so the order of the data too: what a seed does to both cancels.

    Args:
        variant: a figure of each seed.
        reference: the same figure of the same seeds, in the same order.
    """
    one, other = np.asarray(variant, np.float64), np.asarray(reference, np.float64)
    mean = mean_of((one - other).tolist())
    base = float(other.mean()) if len(other) else math.nan
    p_value = float(paired_p_values(one - other)) if mean.count >= 2 else math.nan
    return Difference(mean, p_value, mean.value / base if base else math.nan)


def paired_p_values(differences: ArrayLike) -> NDArray[np.float64]:
    """Two-sided p-values of Student's paired t-test.

    Args:
        differences: ``[..., n]`` of n >= 2 seeds.

    Returns:
        ``[...]``; 1 where all differences are zero, 0 where all are the same other number.
    """
    given = np.asarray(differences, np.float64)
    count = given.shape[-1]
    mean, deviation = given.mean(-1), given.std(-1, ddof=1)
    # Differences of losses that are equal but for rounding vary by rounding.
    rounding = np.finfo(np.float64).eps * np.abs(given).max(-1) * 4
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(deviation > rounding, mean * math.sqrt(count) / deviation, np.inf * mean)
    t = np.where(mean == 0, 0.0, t)
    return np.asarray(2 * _student().sf(np.abs(t), count - 1), np.float64)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for as many comparisons (Holm 1979): all of them hold at once.

    The i-th smallest of m is multiplied by m - i + 1, and none is smaller than one before it.

    Args:
        p_values: NaN where nothing was tested; these count as no comparison.
    """
    tested = [place for place, p in enumerate(p_values) if not math.isnan(p)]
    found, largest = [math.nan] * len(p_values), 0.0
    for rank, place in enumerate(sorted(tested, key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(tested) - rank) * p_values[place]))
        found[place] = largest
    return found


def power_of(effect: float, count: int, level: float = LEVEL) -> float:
    """Probability that a paired t-test of ``count`` seeds tells a difference.

    Its statistic has the noncentral t distribution, of noncentrality ``effect sqrt(count)``.

    Args:
        effect: true mean difference, divided by the standard deviation of differences.
        count: seeds, at least 2.
        level: of the test, two-sided.
    """
    from scipy.special import ndtr

    critical, weights, scale = _deviations(count - 1, level)
    shift = abs(effect) * math.sqrt(count)
    told = ndtr(shift - critical * scale) + ndtr(-shift - critical * scale)
    return float((weights * told).sum() / 2)


@lru_cache(maxsize=4096)
def _deviations(freedom: int, level: float) -> tuple[float, NDArray[np.float64], Any]:
    """Of a t-test the critical value, and what the estimated deviation may be, with weights.

    Power is a mean over these: scipy's own noncentral t distribution has gaps.
    """
    from scipy.stats import chi2

    nodes, weights = _nodes()
    scale = np.sqrt(chi2.ppf((nodes + 1) / 2, freedom) / freedom)
    return float(_student().ppf(1 - level / 2, freedom)), weights, scale


@cache
def _nodes() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of the integral from -1 to 1, with their weights."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return nodes, weights


def seeds_needed(mean: float, deviation: float, level: float = LEVEL) -> int | None:
    """Seeds with which a difference is told with a probability of 80 %.

    Args:
        mean: the true difference.
        deviation: of differences over seeds.
        level: of the test, two-sided.

    Returns:
        At least 2, at most ``MOST_SEEDS``; None if more would be needed, or nothing is known.
    """
    if not mean or math.isnan(mean) or math.isnan(deviation):
        return None
    if deviation == 0:
        return 2
    effect = mean / deviation
    low, high = 1, 2
    while power_of(effect, high, level) < POWER:
        low, high = high, 2 * high
        if low >= MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(effect, middle, level) >= POWER else (middle, high)
    return high if high <= MOST_SEEDS else None


def detectable(deviation: float, count: int, level: float = LEVEL) -> float:
    """The difference that ``count`` seeds tell with a probability of 80 %; NaN if unknown.

    Args:
        deviation: of differences over seeds.
        count: seeds.
        level: of the test, two-sided.
    """
    if count < 2 or math.isnan(deviation):
        return math.nan
    low, high = 0.0, 1.0
    while power_of(high, count, level) < POWER:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if power_of(middle, count, level) >= POWER else (middle, high)
    return high * deviation


def _student() -> Any:
    from scipy.stats import t  # takes a second

    return t
