"""How a run goes on whose numbers are NaN or infinite."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from packformer.run.resume import checkpoints_in
from packformer.run.shown_override import shown_override
from packformer.settings import is_number
from packformer.training.checkpoint import resumable_step

_NAMES = ("learning_rate", "lr")


def with_lower_rate(folder: Path, config: Mapping[str, Any]) -> str:
    """What to do, as a command where there is one: half the rate, from the last checkpoint.

    Args:
        folder: of the run.
        config: resolved, plain types only.
    """
    optimizer = config["optimizer"]
    name = next((name for name in _NAMES if is_number(optimizer.get(name))), None)
    if name is None:
        return "lower the learning rate of optimizer"
    lower = f"optimizer.{name}={optimizer[name] / 2:g}"
    if not any(map(_goes_on, checkpoints_in(folder))):
        return f"no checkpoint was saved before: start anew with {lower}"
    resume = shown_override("resume", str(folder))
    return f"continue from the last checkpoint with `python -m train {resume} {lower}`"


def _goes_on(checkpoint: Path) -> bool:
    """Whether training continues from it: it reads, and holds more than weights."""
    with suppress(ValueError):
        return resumable_step(checkpoint) is not None
    return False
