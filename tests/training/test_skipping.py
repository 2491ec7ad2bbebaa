"""A skipped step changes neither weights nor state, whatever the optimizer."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from packformer.training.build_optimizer import build_optimizer
from packformer.training.clipping import clip_gradients
from packformer.training.optimizer import adamw, muon
from packformer.training.skipping import skip_next_step


class Counting(torch.optim.SGD):
    """An optimizer of a user's that changes something at every call."""

    calls = 0

    def step(self, closure: Any = None) -> Any:
        self.calls += 1
        return super().step(closure)


def two_fused(model: nn.Module, fused: bool) -> list[torch.optim.Optimizer]:
    first, *rest = model.parameters()
    return [adamw([first], fused=True), torch.optim.SGD(rest, lr=0.1, momentum=0.9, fused=True)]


OPTIMIZERS = {
    "adamw": (adamw, False),
    "fused adamw": (adamw, True),
    "muon": (muon, False),
    "muon, fused adamw": (muon, True),
    "torch's muon": (torch.optim.Muon, False),
    "two fused": (two_fused, True),
    "counting": (partial(Counting, lr=0.1, momentum=0.9), False),
}
GPU = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    ],
)
ON_THE_DEVICE = ("fused adamw", "two fused")


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))


def make(kind: str, device: str = "cpu") -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Model().to(device)
    factory, fused = OPTIMIZERS[kind]
    return model, build_optimizer(factory, model, fused=fused)


def take_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, seed: int, planted: float | None = None
) -> None:
    """A clipped step, as a run takes it: the closure makes the gradients."""

    def closure() -> float:
        generator = torch.Generator().manual_seed(seed)
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator).to(p.device)
        if planted is not None:
            next(model.parameters()).grad[0, 0] = planted
        norm = clip_gradients(optimizer, model.parameters(), 1.0)
        skip_next_step(optimizer, norm.isfinite().logical_not().float())
        return 1.0

    optimizer.step(closure)


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    found = {f"weights {name}": p.detach().clone() for name, p in model.named_parameters()}
    for number, values in deepcopy(optimizer.state_dict())["state"].items():
        found |= {f"{number} {k}": v for k, v in values.items() if isinstance(v, torch.Tensor)}
    return found


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("planted", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("device", ["cpu", GPU])
def test_a_step_that_is_not_finite_changes_nothing(device: str, kind: str, planted: float) -> None:
    model, optimizer = make(kind, device)
    take_step(model, optimizer, 0)
    before = state_of(model, optimizer)
    take_step(model, optimizer, 1, planted)
    assert_same(before, state_of(model, optimizer))
    if kind == "counting":
        assert optimizer.calls == 1

    take_step(model, optimizer, 2)
    without, optimizer_without = make(kind, device)
    for seed in (0, 2):
        take_step(without, optimizer_without, seed)
    assert_same(state_of(model, optimizer), state_of(without, optimizer_without))


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_host_is_asked_only_where_the_step_does_not_read_the_flag(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = make(kind)
    take_step(model, optimizer, 0)
    asked = []
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda tensor: bool(asked.append(tensor)))
    take_step(model, optimizer, 1)
    monkeypatch.undo()
    assert bool(asked) == (kind not in ON_THE_DEVICE)


def test_the_first_step_may_be_skipped() -> None:
    for kind in OPTIMIZERS:
        model, optimizer = make(kind)
        take_step(model, optimizer, 1, float("nan"))
        take_step(model, optimizer, 0)
        without, optimizer_without = make(kind)
        take_step(without, optimizer_without, 0)
        assert_same(state_of(model, optimizer), state_of(without, optimizer_without))


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_step_without_a_flag_and_without_a_closure_is_torchs(kind: str) -> None:
    model, optimizer = make(kind)
    before = state_of(model, optimizer)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    after = state_of(model, optimizer)
    weights = [name for name in before if name.startswith("weights")]
    assert not any(torch.equal(before[name], after[name]) for name in weights)


@pytest.mark.parametrize("planted", [None, float("inf")])
def test_a_gradient_scaler_steps_and_skips_as_without_a_guard(planted: float | None) -> None:
    """As Lightning steps under 16-mixed: the closure is over, and the scaler calls ``step``."""
    found = []
    for guarded in (False, True):
        model, optimizer = make("adamw")
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for number in range(3):
            for p in model.parameters():
                p.grad = scaler.scale(torch.full_like(p, 0.5))
            if planted is not None and number == 1:
                next(model.parameters()).grad[0, 0] = planted
            scaler.unscale_(optimizer)
            norm = clip_gradients(optimizer, model.parameters(), 1.0)
            if guarded:
                skip_next_step(optimizer, norm.isfinite().logical_not().float())
            scaler.step(optimizer)
            scaler.update()
        found.append(state_of(model, optimizer))
        assert scaler.get_scale() == (1024.0 if planted is None else 512.0)
    assert_same(*found)


def test_a_step_of_a_gradient_scaler_is_skipped_for_a_spike() -> None:
    model, optimizer = make("adamw")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for p in model.parameters():
        p.grad = scaler.scale(torch.ones_like(p))
    before = state_of(model, optimizer)
    scaler.unscale_(optimizer)
    skip_next_step(optimizer, torch.tensor(1.0))
    scaler.step(optimizer)
    assert_same(before, state_of(model, optimizer))
