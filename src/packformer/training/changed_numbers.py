"""A resumed run's own numbers of optimizer and schedule, where they are not the checkpoint's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from torch.optim import Optimizer

from packformer.counted import counted
from packformer.training.weight_decay import INITIAL_WEIGHT_DECAY

_NO_NUMBERS = ("params", "param_names")  # of a group of parameters


def take_changed_numbers(checkpoint: dict[str, Any], former: Optimizer, own: Optimizer) -> None:
    """Writes what an optimizer's settings have changed into the state that it will load.

    Only that: some optimizers keep numbers in their groups that they change themselves. A setting
    may also change which parameters are a group, such as that of the embedding's learning rate.

    Args:
        checkpoint: as it was read; changed in place.
        former: an optimizer of the same model, as it was made before the checkpoint's first step.
        own: as it is made now.

    Raises:
        ValueError: if the checkpoint does not have the groups of ``former``.
    """
    (state,), (schedule,) = checkpoint["optimizer_states"], checkpoint["lr_schedulers"]
    if [len(group["params"]) for group in state["param_groups"]] != [
        len(group["params"]) for group in former.param_groups
    ]:
        raise ValueError(
            f"the optimizer had {counted(len(state['param_groups']), 'group')} of parameters and "
            f"would have had {len(former.param_groups)} with its settings: leave out what changes "
            "them"
        )
    sources = _sources(former, own)
    _regroup(state, schedule, former, own, sources)
    for number, (source, now) in enumerate(zip(sources, own.param_groups, strict=True)):
        before = former.param_groups[source]
        changed = {
            name: value
            for name, value in now.items()
            if name not in _NO_NUMBERS and (name not in before or before[name] != value)
        }
        group = state["param_groups"][number]
        group |= changed
        if "lr" in changed:
            group["initial_lr"] = schedule["base_lrs"][number] = changed["lr"]
        if "weight_decay" in changed:
            group[INITIAL_WEIGHT_DECAY] = changed["weight_decay"]


def _sources(former: Optimizer, own: Optimizer) -> list[int]:
    """The group of ``former`` that each group's first parameter was in; of an empty group, that in
    its place."""
    place = {id(p): n for n, group in enumerate(former.param_groups) for p in group["params"]}
    last = len(former.param_groups) - 1
    return [
        place[id(group["params"][0])] if group["params"] else min(number, last)
        for number, group in enumerate(own.param_groups)
    ]


def _regroup(
    state: dict[str, Any],
    schedule: dict[str, Any],
    former: Optimizer,
    own: Optimizer,
    sources: Sequence[int],
) -> None:
    """Numbers parameters, and orders groups, as ``own`` does."""
    saved = state["param_groups"]
    number_of = {
        id(p): number
        for group, theirs in zip(former.param_groups, saved, strict=True)
        for p, number in zip(group["params"], theirs["params"], strict=True)
    }
    parameters = [p for group in own.param_groups for p in group["params"]]
    state["state"] = {
        number: state["state"][number_of[id(p)]]
        for number, p in enumerate(parameters)
        if number_of[id(p)] in state["state"]
    }
    numbers = iter(range(len(parameters)))
    state["param_groups"] = [
        {**saved[source], "params": list(islice(numbers, len(group["params"])))}
        for source, group in zip(sources, own.param_groups, strict=True)
    ]
    for name in ("base_lrs", "_last_lr", "lr_lambdas"):
        if name in schedule:
            schedule[name] = [schedule[name][source] for source in sources]


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
