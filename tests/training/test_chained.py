"""Several optimizers step as one."""

import pytest
import torch
from torch import nn

from packformer.training.chained import Chained


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 4))


def members(model):
    """Of different state: a momentum, two moments and a count of steps, a sum from the start."""
    return [
        torch.optim.SGD([model[0].weight], lr=0.1, momentum=0.9),
        torch.optim.AdamW([{"params": [model[0].bias]}, {"params": [model[1].bias]}], lr=0.01),
        torch.optim.Adagrad([model[1].weight], lr=0.05),
    ]


def train(model, optimizers, steps, start=0):
    for step in range(start, start + steps):
        torch.manual_seed(step)
        for optimizer in optimizers:
            optimizer.zero_grad()
        model(torch.randn(5, 4)).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_a_chain_does_what_its_members_do():
    apart, together = make_model(), make_model()
    train(apart, members(apart), 4)
    train(together, [Chained(members(together))], 4)
    assert torch.equal(weights(apart), weights(together))


def test_a_chain_goes_on_bit_for_bit(tmp_path):
    whole, stopped = make_model(), make_model()
    train(whole, [Chained(members(whole))], 6)
    optimizer = Chained(members(stopped))
    train(stopped, [optimizer], 3)
    torch.save([stopped.state_dict(), optimizer.state_dict()], tmp_path / "saved")
    model_state, optimizer_state = torch.load(tmp_path / "saved", weights_only=True)
    resumed = make_model()
    resumed.load_state_dict(model_state)
    optimizer = Chained(members(resumed))
    optimizer.load_state_dict(optimizer_state)
    train(resumed, [optimizer], 3, start=3)
    assert torch.equal(weights(whole), weights(resumed))


def test_a_chain_saves_what_one_optimizer_would():
    model = make_model()
    optimizer = Chained(members(model))
    train(model, [optimizer], 1)
    saved = optimizer.state_dict()
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    assert numbers == [0, 1, 2, 3]
    assert sorted(saved["state"]) == numbers
    assert set(saved["state"][0]) == {"momentum_buffer"}
    assert set(saved["state"][3]) == {"step", "sum"}


@pytest.mark.parametrize("load", [False, True])
def test_a_schedule_reaches_every_member(load):
    model = make_model()
    parts = members(model)
    optimizer = Chained(parts)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    if load:
        optimizer.load_state_dict(optimizer.state_dict())
    train(model, [optimizer], 1)
    scheduler.step()
    assert [g["lr"] for part in parts for g in part.param_groups] == [0.05, 0.005, 0.005, 0.025]


def test_the_closure_is_called_once_with_gradients():
    model = make_model()
    optimizer = Chained(members(model))
    calls = []

    def closure():
        calls.append(torch.is_grad_enabled())
        loss = model(torch.ones(1, 4)).sum()
        loss.backward()
        return loss

    expected = model(torch.ones(1, 4)).sum().item()
    assert optimizer.step(closure).item() == expected
    assert calls == [True]


def test_a_parameter_of_two_members_is_refused():
    model = make_model()
    with pytest.raises(ValueError, match="more than one parameter group"):
        Chained([*members(model), torch.optim.SGD([model[0].weight])])


def test_the_state_of_another_chain_is_refused():
    model = make_model()
    saved = Chained(members(model)).state_dict()
    with pytest.raises(ValueError, match="have 4 groups of parameters and these have 1"):
        Chained([torch.optim.SGD(model.parameters())]).load_state_dict(saved)
