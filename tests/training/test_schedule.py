"""Learning-rate schedules."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from packformer.training import check_factor, constant, warmup_cosine, warmup_stable_decay


def falling(step):
    return -0.5


def worded(word, step):
    return word


def test_warm_up_rises_linearly_to_the_peak():
    factors = [warmup_cosine(step, num_steps=100, warmup_steps=4) for step in range(5)]
    assert factors == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_cosine_falls_to_the_final_factor():
    def factor(step):
        return warmup_cosine(step, num_steps=110, warmup_steps=10, final_factor=0.2)

    assert factor(10) == 1.0
    assert factor(35) == pytest.approx(0.2 + 0.8 * 0.5 * (1 + math.sqrt(0.5)), rel=1e-12)
    assert factor(60) == pytest.approx(0.6, rel=1e-12)
    assert factor(110) == pytest.approx(0.2, rel=1e-12)
    factors = [factor(step) for step in range(10, 111)]
    assert all(later < earlier for earlier, later in zip(factors, factors[1:], strict=False))


def test_final_factor_stays_after_the_last_step():
    assert warmup_cosine(5000, num_steps=100) == pytest.approx(0.1, rel=1e-12)


def test_without_warm_up_the_first_step_has_the_peak():
    assert warmup_cosine(0, num_steps=100) == 1.0


@pytest.mark.parametrize("num_steps", [1, 5])
def test_warm_up_as_long_as_training_is_possible(num_steps):
    factors = [warmup_cosine(s, num_steps=num_steps, warmup_steps=5) for s in range(num_steps)]
    assert factors == [(s + 1) / 5 for s in range(num_steps)]


def test_constant_stays_at_the_peak_after_its_warm_up():
    assert [constant(s, num_steps=9) for s in (0, 5, 100)] == [1.0] * 3
    factors = [constant(s, num_steps=9, warmup_steps=4) for s in range(6)]
    assert factors == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_wsd_stays_at_the_peak_until_its_decay():
    def factor(step, num_steps=100):
        return warmup_stable_decay(
            step, num_steps=num_steps, warmup_steps=4, decay=0.25, final_factor=0.1
        )

    assert [factor(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert {factor(step) for step in range(4, 76)} == {1.0}
    assert factor(76) == pytest.approx(0.1 + 0.9 * (1 - math.sqrt(1 / 25)), rel=1e-12)
    assert factor(99) == pytest.approx(0.1 + 0.9 * (1 - math.sqrt(24 / 25)), rel=1e-12)
    assert [factor(step) for step in (100, 5000)] == pytest.approx([0.1, 0.1], rel=1e-12)
    assert [factor(step, 400) for step in range(76)] == [factor(step) for step in range(76)]


@pytest.mark.parametrize(
    ("decay", "factors"), [(0.0, [0.5, 1, 1, 1]), (1.0, [0.5, 1, 1, 1 - math.sqrt(0.5)])]
)
def test_a_decay_of_no_step_and_of_all_after_the_warm_up(decay, factors):
    found = [
        warmup_stable_decay(step, num_steps=4, warmup_steps=2, decay=decay) for step in range(4)
    ]
    assert found == pytest.approx(factors, rel=1e-12)


@pytest.mark.parametrize(
    "schedule",
    [
        partial(warmup_cosine, num_steps=9),
        lambda step: 0,
        lambda step: 0.5,
        lambda *_: np.float32(1),
    ],
)
def test_a_factor_is_a_number_from_0_up(schedule):
    check_factor(schedule)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (falling, r"^scheduler \(falling\) returned -0.5: it must return a factor"),
        (partial(worded, "fast"), r"^scheduler \(worded\) returned str: it must return a factor"),
        (lambda step: None, "returned NoneType"),
        (lambda step: math.nan, "returned nan"),
        (lambda step: math.inf, "returned inf"),
        (lambda step: True, "returned True"),
        (lambda step: [1.0], "returned list"),
        (lambda: 1.0, "must be a function of the step, and of settings it is given: .*takes 0"),
        (3, r"^scheduler \(int\) must be a function of the step"),
        (torch.optim.lr_scheduler.StepLR, r"\(StepLR\) must be a function of .*'step_size'"),
    ],
)
def test_what_returns_no_factor_is_no_schedule(schedule, message):
    with pytest.raises(ValueError, match=message):
        check_factor(schedule)
