"""Ends a run whose numbers are no longer finite, before it saves any of them."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
from torch.distributed.tensor import DTensor

from packformer.settings import name_of
from packformer.training.fsdp import FSDP2
from packformer.training.module import TrainingModule
from packformer.training.records import is_record_due

_SAVED = "what was saved, if anything, is from before"


class FiniteGuard(L.Callback):
    """Ends a run with a loss, a gradient or weights that are NaN or infinite.

    Part of every run, whatever its other callbacks are. It checks the training loss since the last
    check, and the last gradient, every ``log_every_n_steps`` optimizer steps, when records wait for
    the device anyway; the validation loss after each validation; and the weights before each save.

    It comes after the callbacks that read ``train_loss``, which it empties, and before those that
    save.
    """

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        assert isinstance(pl_module, TrainingModule)
        if not is_record_due(trainer, batch_idx):
            return
        loss = pl_module.train_loss.compute()["loss"]
        pl_module.train_loss.reset()
        _check("training loss", loss, trainer.global_step, pl_module)
        # A gradient scaler leaves out the steps whose float16 gradients overflow.
        if pl_module.grad_norm is not None and trainer.precision != "16-mixed":
            norm = float(pl_module.grad_norm)
            _check("norm of the gradient", norm, trainer.global_step, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        if not trainer.sanity_checking:
            loss = float(trainer.callback_metrics["val/loss"])
            _check("validation loss", loss, trainer.global_step, pl_module)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        assert isinstance(pl_module, TrainingModule)
        # Of a sharded model every rank looks at its own part.
        parts = [p.to_local() if isinstance(p, DTensor) else p for p in pl_module.parameters()]
        finite = bool(torch.stack([torch.isfinite(part).all() for part in parts]).all())
        if isinstance(trainer.strategy, FSDP2):
            finite = trainer.strategy.reduce_boolean_decision(finite)
        if not finite:
            raise ValueError(
                f"the weights at step {trainer.global_step} are not finite: {_advice(pl_module)}; "
                "they are not saved"
            )


def _check(what: str, value: float, step: int, module: TrainingModule) -> None:
    if not math.isfinite(value):
        raise ValueError(f"the {what} is {value} at step {step}: {_advice(module)}; {_SAVED}")


def _advice(module: TrainingModule) -> str:
    """What to try; a score function of the model may be the cause."""
    lower = "lower optimizer.learning_rate"
    hooks = [hook for scheme in module.model.positions for hook in scheme.own_scores]
    functions = {layer.score_mod for layer in module.model.layers if layer.score_mod is not None}
    hooks += sorted(f"attention.score_mod ({name_of(function)})" for function in functions)
    if not hooks:
        return lower
    of = " and ".join(dict.fromkeys(hooks))
    return (
        f"{lower}, or mend {of}: values and gradients must be finite for hidden pairs too "
        "(keys in the future, other documents)"
    )
