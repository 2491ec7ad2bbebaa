"""The callbacks of a run: those of the configuration, and those that every run has."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from packformer.run.resume import LAST_CHECKPOINT, SKIPPED_FILE
from packformer.run.samples import SAMPLES_FILE, Samples
from packformer.training import (
    FiniteGuard,
    LastCheckpoint,
    LineProgress,
    StepRecords,
    TrainingProgressBar,
)

log = logging.getLogger(__name__)

_WITHOUT: dict[type[L.Callback], tuple[str, str]] = {
    StepRecords: ("records", "no metrics are recorded: no metrics.csv, no loss curve, no speed"),
    ModelCheckpoint: ("checkpoint", "the best weights are not kept"),
    LastCheckpoint: ("last_checkpoint", "the run cannot be resumed, nor saved by Ctrl-C"),
}


def build_callbacks(made: Mapping[str, object], folder: Path) -> list[L.Callback]:
    """Callbacks in the order they are called in; Lightning calls those that save last.

    Args:
        made: from the configuration, by name; None where one is left out.
        folder: of the run, which checkpoints lie in.

    Raises:
        ValueError: if one is no callback.
    """
    chosen: list[L.Callback] = []
    for name, callback in made.items():
        if callback is None:
            continue
        if not isinstance(callback, L.Callback):
            kind = type(callback).__name__
            raise ValueError(f"callbacks.{name} ({kind}) must be a callback of Lightning, or null")
        if isinstance(callback, ModelCheckpoint):
            callback.dirpath = callback.dirpath or str(folder / LAST_CHECKPOINT.parent)
        elif isinstance(callback, LastCheckpoint):
            callback.file = folder / LAST_CHECKPOINT
        elif isinstance(callback, Samples):
            callback.file = folder / SAMPLES_FILE
        chosen.append(callback)
    shown = TrainingProgressBar() if is_on_terminal() else LineProgress()
    # What was measured is shown before what the model writes.
    guard = FiniteGuard(folder / SKIPPED_FILE)
    return [*sorted([*chosen, shown], key=lambda c: isinstance(c, Samples)), guard]


def is_on_terminal() -> bool:
    """Whether a progress bar can be drawn; otherwise progress is printed in lines."""
    return sys.stdout.isatty()


def tell_what_is_left_out(callbacks: list[L.Callback]) -> None:
    """Prints one line for each default callback that is switched off."""
    for kind, (name, effect) in _WITHOUT.items():
        if not any(isinstance(callback, kind) for callback in callbacks):
            log.warning("without  callbacks.%s: %s", name, effect)
