"""The newest checkpoint of a run that is whole."""

from __future__ import annotations

import logging
import math
from pathlib import Path

from packformer.run.resume import LAST_CHECKPOINT, checkpoints_in
from packformer.training.checkpoint import resumable_step, why_damaged

log = logging.getLogger(__name__)


def newest_whole(folder: Path) -> Path:
    """The newest checkpoint of the run in ``folder`` that reads as it was written.

    Newer ones that do not are told in a line each.

    Raises:
        ValueError: if there is none, saying what is wrong with each.
    """
    skipped: list[str] = []
    for file in _newest_first(folder):
        reason = why_damaged(file)
        if reason is None:
            for told in skipped:
                log.warning("skipped  %s: continuing from %s", told, file.name)
            return file
        skipped.append(f"{file} is not whole ({reason})")
    raise ValueError(
        f"{'; '.join(skipped) or f'{folder} has no checkpoint'}: nothing is left to continue from; "
        "put a copy of one there, or leave resume out to start a new run"
    )


def _newest_first(folder: Path) -> list[Path]:
    """Checkpoints that hold more than weights; first those of which that cannot be read."""
    found: list[tuple[float, bool, Path]] = []
    for file in checkpoints_in(folder):
        try:
            step: float | None = resumable_step(file)
        except ValueError:
            step = math.inf
        if step is not None:
            found.append((step, file.name == LAST_CHECKPOINT.name, file))
    return [file for _, _, file in sorted(found, reverse=True)]
