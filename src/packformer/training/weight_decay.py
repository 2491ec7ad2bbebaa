"""Weight decay over the steps of a run, as factors on what the optimizer was given.

Decay is decoupled: a step shrinks weights by the learning rate times the weight decay. So under
every schedule here, the learning rate's own schedule comes on top.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from packformer.requirements import WEIGHT_DECAY_SCHEDULE

INITIAL_WEIGHT_DECAY = "initial_weight_decay"
"""Of a group of parameters, beside torch's ``initial_lr``."""


def _constant(step: int) -> float:
    return 1.0


def _linear(step: int, *, num_steps: int) -> float:
    return max(0.0, 1 - step / num_steps)


def _cosine(step: int, *, num_steps: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * min(1.0, step / num_steps)))


def weight_decay_factor(
    name: str, rate: Callable[[int], float], num_steps: int
) -> Callable[[int], float]:
    r"""A factor on the weight decay, from the optimizer steps done.

    Args:
        name: ``constant``; ``learning_rate`` follows ``rate``, so that weights shrink by its square
            (Defazio 2025, Chou 2025); ``linear`` falls to 0, and so does ``cosine`` along half a
            cosine (nanochat).
        rate: factor on the learning rate.
        num_steps: at which linear and cosine are 0.

    Raises:
        ValueError: if there is no such schedule.
    """
    WEIGHT_DECAY_SCHEDULE.check("weight_decay_schedule", name)
    factors: dict[str, Callable[[int], float]] = {
        "constant": _constant,
        "learning_rate": rate,
        "linear": partial(_linear, num_steps=num_steps),
        "cosine": partial(_cosine, num_steps=num_steps),
    }
    return factors[name]


def remember_weight_decay(groups: Iterable[dict[str, Any]]) -> None:
    """Notes in each group of parameters what its weight decay is before any schedule."""
    for group in groups:
        if "weight_decay" in group:
            group.setdefault(INITIAL_WEIGHT_DECAY, group["weight_decay"])


def set_weight_decay(groups: Iterable[dict[str, Any]], factor: float) -> None:
    """Sets the weight decay of the next step.

    Args:
        groups: of parameters; those of an optimizer without weight decay stay as they are.
        factor: on what ``remember_weight_decay`` noted.
    """
    for group in groups:
        if INITIAL_WEIGHT_DECAY in group:
            group["weight_decay"] = group[INITIAL_WEIGHT_DECAY] * factor


def largest_weight_decay(groups: Iterable[dict[str, Any]]) -> float:
    """Over the groups of parameters; 0 where nothing decays."""
    return max((float(group.get("weight_decay", 0.0)) for group in groups), default=0.0)
