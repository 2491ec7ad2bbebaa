"""Notes how long a run took to the end of its first step."""

from __future__ import annotations

import logging
from typing import Any

import lightning as L
import torch

from packformer.run.start_times import FIRST_STEP, StartTimes
from packformer.training.step_end import ends_step

log = logging.getLogger(__name__)


class FirstStep(L.Callback):
    """Ends the stages of a start that Lightning runs, and tells them in one line.

    The first of all callbacks, so that what others do counts to the stage in which they do it.

    Args:
        times: of the start.
    """

    def __init__(self, times: StartTimes) -> None:
        self._times = times
        self._done = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._times.ended("model")

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._times.ended("kernels")  # which the module chooses, and proves

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if self._done or not ends_step(trainer, batch_idx):
            return
        self._done = True
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        self._times.ended(FIRST_STEP)
        if trainer.is_global_zero:
            log.info("start    %s", self._times)
