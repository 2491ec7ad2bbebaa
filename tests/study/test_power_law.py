"""A planted law is found, and predicts a size that it has not seen."""

from __future__ import annotations

import math

import numpy as np
import pytest

from packformer.study.power_law import fit_power_law
from packformer.study.question import Question
from packformer.study.report import report_of, write_report

SIZES = np.array([1e6, 2e6, 4e6, 8e6, 16e6])


def with_floor(size: np.ndarray | float) -> np.ndarray | float:
    return 1.7 + 400 * np.asarray(size) ** -0.34


def without_floor(size: np.ndarray | float) -> np.ndarray | float:
    return 30 * np.asarray(size) ** -0.12


def test_a_planted_law_is_found() -> None:
    found = fit_power_law(SIZES, with_floor(SIZES))
    assert found is not None
    assert found.has_floor
    assert (found.floor, found.exponent) == pytest.approx((1.7, 0.34), rel=1e-3)
    assert found.scale == pytest.approx(400, rel=0.02)


@pytest.mark.parametrize("sizes", [3, 4, 5])
def test_a_held_out_size_is_predicted(sizes: int) -> None:
    noise = np.random.default_rng(0).normal(0, 0.002, size=(3, sizes))
    known = np.tile(SIZES[:sizes], 3)
    law = with_floor if sizes >= 4 else without_floor
    found = fit_power_law(known, law(known) * np.exp(noise.ravel()))
    assert found is not None
    assert found.has_floor == (sizes >= 4)
    next_size = 2 * SIZES[sizes - 1]
    assert float(found(next_size)) == pytest.approx(float(law(next_size)), rel=0.015)


def test_the_interval_covers_as_often_as_it_says() -> None:
    """Of 300 ladders of three seeds, the fourth size lies within in about 95 %."""
    random, inside = np.random.default_rng(1), 0
    known = np.tile(SIZES[:3], 3)
    for _ in range(300):
        losses = 30 * known**-0.12 * np.exp(random.normal(0, 0.004, len(known)))
        measured = np.mean(30 * SIZES[3] ** -0.12 * np.exp(random.normal(0, 0.004, 3)))
        found = fit_power_law(known, losses)
        assert found is not None
        low, high = found.interval(SIZES[3], 3)
        inside += low <= measured <= high
    assert 0.92 <= inside / 300 <= 0.98


def test_nothing_fits_better_even_if_a_loss_lies_below_the_floor() -> None:
    """The least squares of a grid, of a ladder whose lowest loss is noise."""
    sizes = np.repeat([16464.0, 26232, 49312, 80112], 2)
    losses = np.array([5.43, 5.36, 5.19, 5.165, 5.11, 5.09, 5.09, 5.055])
    found = fit_power_law(sizes, losses)
    assert found is not None
    floor, exponent = np.meshgrid(np.linspace(4.9, 5.085, 200), np.linspace(0.5, 5, 200))
    powers = (sizes / 3e4) ** -exponent[..., None]
    costs = []
    for scale in np.geomspace(0.005, 1, 80):
        fitted = floor[..., None] + scale * powers
        costs.append(((np.log(fitted) - np.log(losses)) ** 2).sum(-1).min())
    mine = float(((np.log(found(sizes)) - np.log(losses)) ** 2).sum())
    assert mine <= min(costs)
    assert found.floor > losses.min()


def test_a_law_through_its_points_has_no_interval() -> None:
    found = fit_power_law([1e6, 2e6], [5.0, 4.5])
    assert found is not None
    assert float(found(2e6)) == pytest.approx(4.5)
    assert math.isnan(found.interval(4e6, 1)[0])
    assert fit_power_law([1e6, 1e6], [5.0, 4.9]) is None


def test_a_report_draws_the_ladder_and_predicts(made) -> None:
    for name, worse in (("mha", 0.0), ("mqa", 0.05)):
        for size in SIZES[:4]:
            for seed in range(2):
                loss = 30 * float(size) ** -0.12 + worse + 0.01 * seed
                study = made(
                    name,
                    seed,
                    loss + 0.0001 * (seed if name == "mqa" else 0),
                    given=(f"model=m{size / 1e6:.0f}",),
                    settings={"model": {"width": int(size / 1e4)}},
                    summary={"parameters": int(size)},
                )
    report = report_of(study, Question(sizes="model"))
    assert [ladder.label for ladder in report.ladders] == ["mha", "mqa"]
    for ladder in report.ladders:
        assert [rung.held_out for rung in ladder.rungs] == [False, False, False, True]
        assert abs(ladder.error(ladder.rungs[-1])) < 0.015
    words = "\n".join(report.lines())
    assert "A N^-alpha, without E: that needs four sizes" in words
    assert "For model=m8 (8,000,000 parameters), which was held out, it predicts" in words
    page = write_report(report, study).read_text(encoding="utf-8")
    assert "Ladder of sizes" in page
    assert "mqa at model=m8 is worse than mha" in page
    with pytest.raises(ValueError, match=r"--sizes \(model.depth\) is no setting"):
        report_of(study, Question(sizes="model.depth"))
