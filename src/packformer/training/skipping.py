"""Optimizer steps that change nothing: neither weights nor the optimizer's state."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from packformer.training.chained import members_of
from packformer.training.clipping import divides_gradients


def skip_next_step(optimizer: Optimizer, skip: Tensor) -> None:
    """Lets the next step change nothing if ``skip`` is not 0.

    Fused optimizers read ``skip`` on the device, and the host does not wait. All others are not
    stepped at all (``skippable``), for which the host must know. Of several, chained, all are
    skipped or none, so one that is not fused decides for all. So does one without state: torch's
    fused SGD would leave its momentum uninitialised.

    Args:
        optimizer: that is stepped next, made by ``build_optimizer``.
        skip: float32 scalar, 0 or 1, on the device of the gradients.
    """
    members = members_of(optimizer)
    if all(divides_gradients(member) and member.state for member in members):
        for member in members:
            member.found_inf = skip  # type: ignore[attr-defined]
    else:
        optimizer.skip = skip  # type: ignore[attr-defined]


def skippable(optimizer: Optimizer) -> Optimizer:
    """``optimizer``, whose ``step`` calls its closure and returns if ``skip_next_step`` said so."""
    step: Callable[..., Any] = optimizer.step

    def step_or_skip(self: Optimizer, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        skip = self.__dict__.pop("skip", None)
        if skip is not None and bool(skip):
            return loss
        return step() if closure is None else step(lambda: loss)

    optimizer.step = MethodType(step_or_skip, optimizer)  # type: ignore[method-assign]
    return optimizer
