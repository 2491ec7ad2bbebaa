"""Ends a run whose numbers stay NaN or infinite, and saves none of them."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from packformer.settings import name_of
from packformer.training.chained import members_of
from packformer.training.fsdp import FSDP2
from packformer.training.module import TrainingModule
from packformer.training.records import is_record_due
from packformer.training.skipped_steps import forget_after, number_of_document, tell_skipped


class FiniteGuard(L.Callback):
    """Tells which steps were skipped, and ends a run that no longer learns.

    Part of every run, whatever its other callbacks are. The steps themselves are skipped by the
    module's ``StepGuard``. Every ``log_every_n_steps`` optimizer steps, when records wait for the
    device anyway, it tells which these were, and ends the run if the last ones were too many in a
    row. It also ends a run whose validation loss is not finite, and before a save one whose weights
    or optimizer state are not.

    It comes after the callbacks that read ``train_loss``, which it empties, and before those that
    save.

    Args:
        file: that lists the skipped steps; None for none.

    Attributes:
        name_document: see ``tell_skipped``; set by the run.
        how_to_go_on: what to do once the numbers are not finite; set by the run.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.name_document = number_of_document
        self.how_to_go_on: Callable[[], str] | None = None
        self._file = file
        self._module: TrainingModule | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, TrainingModule)
        self._module = pl_module

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._file is not None and trainer.is_global_zero:
            forget_after(self._file, trainer.global_step)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        assert isinstance(pl_module, TrainingModule)
        if is_record_due(trainer, batch_idx):
            pl_module.forget_training_losses()
            self._look(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        # A short run that took no step at all has not trained.
        self._look(trainer, pl_module, at_most=max(1, trainer.global_step))

    def _look(self, trainer: L.Trainer, module: TrainingModule, at_most: int = sys.maxsize) -> None:
        guard = module.step_guard
        guard.settle()
        tell_skipped(trainer, guard.take_skipped(), self._file, self.name_document)
        if guard.in_a_row >= min(at_most, guard.settings.skips_in_a_row):
            raise ValueError(
                f"{guard.in_a_row} optimizer steps in a row were skipped, up to step {guard.step} "
                f"(guard.skips_in_a_row is {guard.settings.skips_in_a_row}): {self._advice(module)}"
            )

    def _advice(self, module: TrainingModule) -> str:
        lower = "lower optimizer.learning_rate"
        go_on = lower if self.how_to_go_on is None else self.how_to_go_on()
        return f"{go_on}{_or_mend(module)}"

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        if trainer.sanity_checking:
            return
        loss = float(trainer.callback_metrics["val/loss"])
        if not math.isfinite(loss):
            raise ValueError(
                f"the validation loss is {loss} at step {trainer.global_step}: "
                f"{self._advice(pl_module)}"
            )

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        assert isinstance(pl_module, TrainingModule)
        self._look(trainer, pl_module)
        optimizers = trainer.optimizers
        for what, tensors in {
            "weights": iter(pl_module.parameters()),
            "optimizer's numbers": (t for each in optimizers for t in _state_of(each)),
        }.items():
            finite = _are_finite(tensors)
            if isinstance(trainer.strategy, FSDP2):
                finite = trainer.strategy.reduce_boolean_decision(finite)
            if not finite:
                raise ValueError(
                    f"the {what} at step {trainer.global_step} are not finite, so they are not "
                    f"saved: {self._advice(pl_module)}"
                )

    def state_dict(self) -> dict[str, Any]:
        assert self._module is not None
        return self._module.step_guard.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        assert self._module is not None
        self._module.step_guard.load_state_dict(state_dict)


def _state_of(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    for member in members_of(optimizer):
        for values in member.state.values():
            yield from (value for value in values.values() if isinstance(value, Tensor))


def _are_finite(tensors: Iterable[Tensor]) -> bool:
    """Of a sharded model every rank looks at its own part."""
    parts = (t.to_local() if isinstance(t, DTensor) else t for t in tensors)
    finite = [torch.isfinite(part).all() for part in parts]
    return not finite or bool(torch.stack([f.to(finite[0].device) for f in finite]).all())


def _or_mend(module: TrainingModule) -> str:
    """A score function of the model may be the cause."""
    hooks = [hook for scheme in module.model.positions for hook in scheme.own_scores]
    functions = {layer.score_mod for layer in module.model.layers if layer.score_mod is not None}
    hooks += sorted(f"attention.score_mod ({name_of(function)})" for function in functions)
    if not hooks:
        return ""
    return (
        f", or mend {' and '.join(dict.fromkeys(hooks))}: values and gradients must be finite for "
        "hidden pairs too (keys in the future, other documents)"
    )
