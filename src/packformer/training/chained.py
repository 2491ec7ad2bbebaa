"""Several optimizers as one, because Lightning steps only one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from packformer.counted import counted


class Chained(Optimizer):
    """Steps several optimizers, one after the other; each keeps the state of its own parameters.

    ``param_groups`` are the members' own groups, one after the other: a schedule that changes the
    rate of one changes it where the step reads it. The saved state has the form of one optimizer's.

    Args:
        members: the optimizers, at least one; no two hold the same parameter.
    """

    def __init__(self, members: Sequence[Optimizer]) -> None:
        self.members = list(members)
        super().__init__([g for member in self.members for g in member.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for member in self.members:
            member.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        state: dict[Any, Any] = {}
        groups: list[dict[str, Any]] = []
        before = 0  # parameters are numbered through all members
        for member in self.members:
            own = member.state_dict()
            state |= {before + number: value for number, value in own["state"].items()}
            groups += [
                {**group, "params": [before + number for number in group["params"]]}
                for group in own["param_groups"]
            ]
            before = sum(len(group["params"]) for group in groups)
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        groups = list(state_dict["param_groups"])
        if len(groups) != len(self.param_groups):
            raise ValueError(
                f"the saved optimizers have {counted(len(groups), 'group')} of parameters and "
                f"these have {len(self.param_groups)}"
            )
        for member in self.members:
            own, groups = groups[: len(member.param_groups)], groups[len(member.param_groups) :]
            numbers = {number for group in own for number in group["params"]}
            state = {n: value for n, value in state_dict["state"].items() if n in numbers}
            member.load_state_dict({"state": state, "param_groups": own})
        self.param_groups = [g for member in self.members for g in member.param_groups]


def members_of(optimizer: Optimizer) -> list[Optimizer]:
    """The optimizers that are chained, or the one that is not."""
    return optimizer.members if isinstance(optimizer, Chained) else [optimizer]
