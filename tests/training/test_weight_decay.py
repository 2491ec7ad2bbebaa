"""Weight decay over the steps of a run."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from packformer.training import adamw, constant, warmup_stable_decay, weight_decay_factor
from packformer.training.weight_decay import (
    largest_weight_decay,
    remember_weight_decay,
    set_weight_decay,
)

RATE = partial(warmup_stable_decay, num_steps=10, warmup_steps=2, decay=0.5)


@pytest.mark.parametrize(
    ("name", "factors"),
    [
        ("constant", [1, 1, 1, 1]),
        ("learning_rate", [0.5, 1, 1, 0]),
        ("linear", [1, 0.8, 0.5, 0]),
        ("cosine", [1, 0.5 * (1 + math.cos(0.2 * math.pi)), 0.5, 0]),
    ],
)
def test_it_follows_its_schedule(name, factors):
    factor = weight_decay_factor(name, RATE, 10)
    found = [factor(step) for step in (0, 2, 5, 10)]
    assert found == pytest.approx(factors, abs=1e-15)
    assert factor(11) == pytest.approx(factors[-1], abs=1e-15), "after the last step"


def test_an_unknown_schedule_is_named():
    with pytest.raises(
        ValueError, match=r"weight_decay_schedule \(fast\) must be one of constant, "
    ):
        weight_decay_factor("fast", RATE, 10)


def test_weights_shrink_by_rate_and_decay_of_their_step():
    model = nn.Linear(2, 2)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = adamw(model, fused=False, learning_rate=0.1, weight_decay=0.5)
    remember_weight_decay(optimizer.param_groups)
    factor = weight_decay_factor("linear", constant, 4)
    shrunk = 1.0
    for step in range(4):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        set_weight_decay(optimizer.param_groups, factor(step))
        assert largest_weight_decay(optimizer.param_groups) == 0.5 * factor(step)
        optimizer.step()
        shrunk *= 1 - 0.1 * 0.5 * factor(step)
    torch.testing.assert_close(model.weight.detach(), before[0] * shrunk)
    assert torch.equal(model.bias, before[1]), "what does not decay never does"


def test_optimizers_without_weight_decay_are_left_alone():
    (group,) = torch.optim.Rprop(nn.Linear(2, 2).parameters()).param_groups
    before = {name: value for name, value in group.items() if name != "params"}
    remember_weight_decay([group])
    set_weight_decay([group], 0.5)
    assert {name: value for name, value in group.items() if name != "params"} == before
    assert largest_weight_decay([group]) == 0
