"""An optimizer's state, loaded with other numbers and other groups."""

from functools import partial

import pytest
import torch

from packformer.model import GPT
from packformer.nn import Rotary
from packformer.training import adamw, build_optimizer, muon
from packformer.training.changed_numbers import take_changed_numbers
from packformer.training.weight_decay import remember_weight_decay


def make_model():
    torch.manual_seed(0)
    sizes = {"num_layers": 1, "width": 8, "num_heads": 2}
    return GPT(11, 8, **sizes, position=Rotary, tie_embeddings=False)


def stepped(model, make):
    """A checkpoint of an optimizer that has taken a step, and its state by name of parameter."""
    optimizer = build_optimizer(make, model, fused=False)
    remember_weight_decay(optimizer.param_groups)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, 0.1 * (number + 1))
    optimizer.step()
    checkpoint = {
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [scheduler.state_dict()],
    }
    return checkpoint, states(optimizer, model)


def states(optimizer, model):
    members = getattr(optimizer, "members", [optimizer])
    of = {id(p): member.state[p] for member in members for p in member.state}
    return {name: of[id(p)] for name, p in model.named_parameters() if id(p) in of}


@pytest.mark.parametrize("optimizer", [adamw, muon])
@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({}, {"embedding_rate_factor": 3.0, "head_rate_factor": 0.5}),
        ({"embedding_rate_factor": 3.0, "head_rate_factor": 0.5}, {}),
        ({"embedding_rate_factor": 3.0}, {"head_rate_factor": 0.5, "weight_decay": 0.2}),
        ({"embedding_rate_factor": 3.0}, {"embedding_rate_factor": 2.0, "learning_rate": 0.1}),
    ],
)
def test_every_parameter_keeps_its_state_in_its_new_group(optimizer, before, now):
    model = make_model()
    before, now = partial(optimizer, **before), partial(optimizer, **now)
    checkpoint, wanted = stepped(model, before)
    former, own = (build_optimizer(make, model, fused=False) for make in (before, now))
    take_changed_numbers(checkpoint, former, own)
    (saved,), (schedule,) = checkpoint["optimizer_states"], checkpoint["lr_schedulers"]
    fresh = build_optimizer(now, model, fused=False)
    for group, other, rate in zip(
        saved["param_groups"], fresh.param_groups, schedule["base_lrs"], strict=True
    ):
        assert rate == group["initial_lr"] == pytest.approx(other["lr"])
        assert group["weight_decay"] == group["initial_weight_decay"] == other["weight_decay"]
    torch.optim.lr_scheduler.LambdaLR(fresh, lambda _: 1.0).load_state_dict(schedule)
    fresh.load_state_dict(saved)
    found = states(fresh, model)
    assert found.keys() == wanted.keys()
    for name, state in wanted.items():
        for key, value in state.items():
            assert torch.equal(found[name][key], value), (name, key)


def test_a_checkpoint_of_other_groups_is_refused():
    model = make_model()
    checkpoint, _ = stepped(model, partial(adamw, head_rate_factor=0.5))
    plain = build_optimizer(adamw, model, fused=False)
    with pytest.raises(ValueError, match="the optimizer had 3 groups of parameters and would have"):
        take_changed_numbers(checkpoint, plain, plain)
