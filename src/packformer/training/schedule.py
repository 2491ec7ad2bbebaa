"""Learning-rate schedules: pure functions from the step to a factor on the peak rate."""

from __future__ import annotations

import math

from packformer.requirements import check_schedule


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
    check_schedule(num_steps=num_steps, warmup_steps=warmup_steps, final_factor=final_factor)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, num_steps - warmup_steps))
    return final_factor + (1 - final_factor) * 0.5 * (1 + math.cos(math.pi * progress))


def constant(step: int, *, num_steps: int, warmup_steps: int = 0) -> float:
    """Linear warm-up, then constant; arguments as in ``warmup_cosine``."""
    check_schedule(num_steps=num_steps, warmup_steps=warmup_steps)
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
