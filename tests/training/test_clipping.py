"""Gradients are clipped whatever the optimizer, before and after a resume."""

import pytest
import torch
from torch import nn

from packformer.training.build_optimizer import build_optimizer
from packformer.training.chained import members_of
from packformer.training.clipping import clip_gradients, divides_gradients

GPU = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    ],
)


class Declaring(torch.optim.SGD):
    """Says that it divides gradients, as torch's fused ones do, and is not fused."""

    _step_supports_amp_scaling = True


def sgd(model, fused=False):
    return torch.optim.SGD(model.parameters(), lr=1.0, fused=fused)


def two(model, fused=False):
    first, *rest = model.parameters()
    return [
        torch.optim.SGD([first], lr=1.0, fused=fused),
        torch.optim.SGD(rest, lr=1.0),
    ]


FACTORIES = {
    "plain": sgd,
    "fused": lambda model: sgd(model, fused=True),
    "declaring": lambda model: Declaring(model.parameters(), lr=1.0),
    "two": two,
    "two, one fused": lambda model: two(model, fused=True),
}


def make_model(device="cpu"):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).to(device)


def moved_by(model, optimizer, limit, size=3.0):
    """2-norm of the change that a clipped step of rate 1 makes: that of the gradients used."""
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.full_like(p, size)
    norm = clip_gradients(optimizer, model.parameters(), limit)
    optimizer.step()
    changes = [p.detach() - b for p, b in zip(model.parameters(), before, strict=True)]
    return norm.item(), torch.cat([c.flatten() for c in changes]).norm().item()


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("kind", FACTORIES)
def test_the_step_uses_gradients_of_the_limit(kind, device):
    model = make_model(device)
    optimizer = build_optimizer(FACTORIES[kind], model, fused=False)
    total = 3.0 * sum(p.numel() for p in model.parameters()) ** 0.5
    assert moved_by(model, optimizer, 0.5) == pytest.approx((total, 0.5), rel=1e-4)
    assert moved_by(model, optimizer, 2 * total) == pytest.approx((total, total), rel=1e-4)
    assert moved_by(model, optimizer, None, size=0.1)[1] == pytest.approx(total / 30, rel=1e-4)


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("resumed", FACTORIES)
@pytest.mark.parametrize("said", [True, False, None, "nothing"])
def test_what_a_checkpoint_says_of_fused_does_not_unclip(resumed, said, device):
    """Whatever wrote the checkpoint, the optimizer of this run is clipped its own way."""
    model = make_model(device)
    optimizer = build_optimizer(FACTORIES[resumed], model, fused=False)
    built = [group.get("fused", "nothing") for group in optimizer.param_groups]
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        if said == "nothing":
            group.pop("fused", None)
        else:
            group["fused"] = said
    optimizer.load_state_dict(state)
    assert [group.get("fused", "nothing") for group in optimizer.param_groups] == built
    assert moved_by(model, optimizer, 0.5)[1] == pytest.approx(0.5, rel=1e-4)


def test_only_what_declares_it_and_is_fused_divides_gradients():
    model = make_model()
    divides = {
        name: [divides_gradients(o) for o in members_of(build_optimizer(f, model, fused=False))]
        for name, f in FACTORIES.items()
    }
    assert divides == {
        "plain": [False],
        "fused": [True],
        "declaring": [False],
        "two": [False, False],
        "two, one fused": [True, False],
    }
    mixed = [{"params": [p], "fused": number == 0} for number, p in enumerate(model.parameters())]
    assert not divides_gradients(torch.optim.AdamW(mixed, fused=True)), "one group is not fused"
