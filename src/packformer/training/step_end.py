"""Where an optimizer step ends."""

from __future__ import annotations

import lightning as L


def ends_step(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether a row is the last one that this rank accumulates for a step."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0
