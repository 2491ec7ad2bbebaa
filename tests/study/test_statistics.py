"""Equal variants are seldom told apart, and planted differences are."""

from __future__ import annotations

import math

import numpy as np
import pytest

from packformer.study.statistics import (
    LEVEL,
    detectable,
    difference_of,
    holm,
    mean_of,
    paired_p_values,
    power_of,
    seeds_needed,
)


def test_the_interval_is_that_of_students_t() -> None:
    found = mean_of([1.0, 2.0, 3.0])
    half = 4.302652729911275 / math.sqrt(3)  # t(0.975, 2), a standard deviation of 1
    assert (found.value, found.deviation, found.count) == (2.0, 1.0, 3)
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half))


@pytest.mark.parametrize("values", [[], [5.0]])
def test_one_seed_has_no_interval(values: list[float]) -> None:
    found = mean_of(values)
    assert math.isnan(found.low)
    assert math.isnan(found.deviation)
    assert found.count == len(values)


def test_pairs_cancel_what_a_seed_does_to_both() -> None:
    seeds = np.array([0.0, 5.0, -3.0, 9.0])
    noise = np.array([0.010, 0.012, 0.009, 0.011])
    found = difference_of((seeds + noise).tolist(), seeds.tolist())
    assert found.mean.value == pytest.approx(0.0105)
    assert found.p_value < 0.001


def test_p_values_are_those_of_scipy() -> None:
    from scipy.stats import ttest_rel

    one, other = np.random.default_rng(0).normal(size=(2, 50, 4))
    assert paired_p_values(one - other) == pytest.approx(ttest_rel(one, other, axis=1).pvalue)


@pytest.mark.parametrize(("difference", "p_value"), [(0.0, 1.0), (0.1, 0.0)])
def test_differences_that_do_not_vary(difference: float, p_value: float) -> None:
    assert paired_p_values([difference] * 3) == p_value


def test_holm_corrects_for_the_comparisons_that_were_made() -> None:
    found = holm([0.01, 0.04, math.nan, 0.03])
    assert found[:2] == pytest.approx([0.03, 0.06])
    assert math.isnan(found[2])
    assert found[3] == pytest.approx(0.06)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_equal_variants_are_told_apart_in_at_most_one_of_twenty_studies(seeds: int) -> None:
    """Three variants that equal the reference, in 2,000 studies: one wrong word spoils a study."""
    random = np.random.default_rng(seeds)
    losses = random.normal(size=(2000, 4, seeds)) + random.normal(size=(2000, 1, seeds))
    p_values = paired_p_values(losses[:, 1:] - losses[:, :1])
    wrong = [min(holm(row)) < LEVEL for row in p_values.tolist()]
    assert np.mean(wrong) <= LEVEL + 2.5 * math.sqrt(LEVEL * (1 - LEVEL) / 2000)


@pytest.mark.parametrize("effect", [0.5, 1.0, 2.0])
def test_as_many_seeds_tell_a_difference_as_was_said(effect: float) -> None:
    needed = seeds_needed(effect, 1.0)
    assert needed is not None
    assert power_of(effect, needed) >= 0.8 > power_of(effect, needed - 1)
    drawn = np.random.default_rng(0).normal(effect, 1.0, size=(4000, needed))
    assert np.mean(paired_p_values(drawn) < LEVEL) == pytest.approx(
        power_of(effect, needed), abs=0.025
    )


def test_seeds_that_nobody_has_are_not_counted() -> None:
    assert seeds_needed(0.001, 1.0) is None
    assert seeds_needed(0.0, 1.0) is None
    assert seeds_needed(1.0, 0.0) == 2


@pytest.mark.parametrize("count", [2, 3, 10])
def test_the_detectable_difference_is_told_by_as_many_seeds(count: int) -> None:
    assert power_of(detectable(0.02, count) / 0.02, count) == pytest.approx(0.8, abs=1e-6)
    assert math.isnan(detectable(0.02, 1))
