"""How a run shows progress: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import logging
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme

from packformer.training.module import TrainingModule
from packformer.training.records import StepRecords, is_record_due

log = logging.getLogger(__name__)


def _records(trainer: L.Trainer) -> dict[str, float]:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, StepRecords):
            return callback.latest
    return {}


def _of_each(trainer: L.Trainer, rate: float) -> str:
    number = trainer.world_size
    return f" ({rate / number:,.0f} a device)" if number > 1 else ""


class TrainingProgressBar(RichProgressBar):
    """Rich's bar with loss, tokens per second and time left; never waits for the device."""

    def __init__(self) -> None:
        super().__init__(leave=True, theme=RichProgressBarTheme(metrics_format=".4g"))

    def _get_train_description(self, current_epoch: int) -> str:
        return "training"  # epochs say nothing: the data have no end

    def get_metrics(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        latest = _records(trainer)
        shown = {
            "loss": latest.get("train/loss"),
            "val": latest.get("val/loss"),
            "tokens/s": latest.get("train/tokens_per_second"),
        }
        return {name: value for name, value in shown.items() if value is not None}


class LineProgress(L.Callback):
    """One line per record, for logs and pipes."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start, self._first_step = time.perf_counter(), trainer.global_step

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
        step, rate = trainer.global_step, _records(trainer).get("train/tokens_per_second")
        done = step - self._first_step
        left = (time.perf_counter() - self._start) / done * (trainer.max_steps - step)
        log.info(
            "step %*d/%d  loss %.4f  %s%d:%02d left",
            len(str(trainer.max_steps)),
            step,
            trainer.max_steps,
            pl_module.train_loss.compute()["loss"],
            "" if rate is None else f"{rate:,.0f} tokens/s{_of_each(trainer, rate)}  ",
            *divmod(round(left), 60),
        )

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            metrics = {
                name.removeprefix("val/"): f"{float(value):.4f}"
                for name, value in trainer.callback_metrics.items()
                if name.startswith("val/")
            }
            log.info("validation  %s", "  ".join(f"{k} {v}" for k, v in metrics.items()))
