"""A resumed run's own numbers of optimizer and schedule, where they are not the checkpoint's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from packformer.counted import counted

_NO_NUMBERS = ("params", "param_names")  # of a group of parameters


def take_changed_numbers(checkpoint: dict[str, Any], former: Optimizer, own: Optimizer) -> None:
    """Writes what an optimizer's settings have changed into the state that it will load.

    Only that: some optimizers keep numbers in their groups that they change themselves.

    Args:
        checkpoint: as it was read; changed in place.
        former: an optimizer as it was made before the checkpoint's first step.
        own: as it is made now.

    Raises:
        ValueError: if the optimizers do not have as many groups of parameters.
    """
    (state,), (schedule,) = checkpoint["optimizer_states"], checkpoint["lr_schedulers"]
    groups = state["param_groups"]
    if not len(groups) == len(former.param_groups) == len(own.param_groups):
        raise ValueError(
            f"the optimizer has {counted(len(own.param_groups), 'group')} of parameters and had "
            f"{len(groups)}: leave out what changes that"
        )
    pairs = zip(former.param_groups, own.param_groups, strict=True)
    for number, (before, now) in enumerate(pairs):
        changed = {
            name: value
            for name, value in now.items()
            if name not in _NO_NUMBERS and (name not in before or before[name] != value)
        }
        groups[number] |= changed
        if "lr" in changed:
            groups[number]["initial_lr"] = schedule["base_lrs"][number] = changed["lr"]


def follow_schedule(checkpoint: dict[str, Any], factor: Callable[[int], float]) -> None:
    """Sets the learning rates of the next step, which a schedule may see otherwise than before.

    Args:
        checkpoint: as it was read; changed in place.
        factor: of the schedule, on the rate, after so many steps.
    """
    for state, schedule in zip(
        checkpoint["optimizer_states"], checkpoint["lr_schedulers"], strict=True
    ):
        now = factor(schedule["last_epoch"])
        rates = [rate * now for rate in schedule["base_lrs"]]
        for group, rate in zip(state["param_groups"], rates, strict=True):
            group["lr"] = rate
        schedule["_last_lr"] = rates
