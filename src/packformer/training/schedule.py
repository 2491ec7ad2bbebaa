"""Learning-rate schedules: pure functions from the step to a factor on the peak rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from packformer.requirements import CONSTANT, COSINE, WSD
from packformer.settings import check_settings, is_number, name_of


def check_factor(schedule: Callable[..., Any]) -> None:
    """Refuses what is no schedule: it is asked for the factor of the first step.

    Raises:
        ValueError: if it cannot be called with a step, or returns no number from 0 up.
    """
    named = f"scheduler ({name_of(schedule)})"
    try:
        factor = schedule(0)
    except TypeError as error:
        raise ValueError(
            f"{named} must be a function of the step, and of settings it is given: {error}"
        ) from error
    if isinstance(factor, np.floating | np.integer):
        factor = factor.item()
    if not is_number(factor) or factor < 0:
        shown = factor if isinstance(factor, int | float) else type(factor).__name__
        raise ValueError(
            f"{named} returned {shown}: it must return a factor on the learning rate, from 0 up"
        )


def warmup_cosine(
    step: int, *, num_steps: int, warmup_steps: int = 0, final_factor: float = 0.1
) -> float:
    """Linear warm-up, then half a cosine down to ``final_factor`` (Loshchilov and Hutter 2017).

    Args:
        step: optimizer steps done.
        num_steps: step at which the decay ends.
        warmup_steps: the factor rises from ``1 / warmup_steps`` to 1 in the first so many steps.
        final_factor: after ``num_steps``.

    Raises:
        ValueError: if ``warmup_steps`` or ``final_factor`` is negative.
    """
    given = {"num_steps": num_steps, "warmup_steps": warmup_steps, "final_factor": final_factor}
    check_settings("scheduler", COSINE, given)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, num_steps - warmup_steps))
    return final_factor + (1 - final_factor) * 0.5 * (1 + math.cos(math.pi * progress))


def warmup_stable_decay(
    step: int,
    *,
    num_steps: int,
    warmup_steps: int = 0,
    decay: float = 0.2,
    final_factor: float = 0.0,
) -> float:
    r"""Linear warm-up, then constant, then a short decay (WSD, Hu et al. 2024).

    The decay is :math:`1 - \sqrt{t}` for t from 0 to 1 (Hägele et al. 2024). Until it begins,
    nothing depends on ``num_steps``: one long run may be continued into decays at several steps.

    Args:
        step: optimizer steps done.
        num_steps: step at which the decay ends.
        warmup_steps: as of ``warmup_cosine``.
        decay: its share of ``num_steps``; it begins after the warm-up at the earliest.
        final_factor: after ``num_steps``.

    Raises:
        ValueError: if an argument is out of range.
    """
    given = {"num_steps": num_steps, "warmup_steps": warmup_steps, "decay": decay}
    check_settings("scheduler", WSD, {**given, "final_factor": final_factor})
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    start = max(warmup_steps, num_steps - round(decay * num_steps))
    progress = min(1.0, max(0.0, (step - start) / max(1, num_steps - start)))
    return final_factor + (1 - final_factor) * (1 - math.sqrt(progress))


def constant(step: int, *, num_steps: int, warmup_steps: int = 0) -> float:
    """Linear warm-up, then constant; arguments as in ``warmup_cosine``."""
    check_settings("scheduler", CONSTANT, {"num_steps": num_steps, "warmup_steps": warmup_steps})
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
