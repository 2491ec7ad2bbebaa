"""``last.ckpt``: after each validation, every few minutes, and when a run is interrupted."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from packformer.interruption import Interrupted, outlive_launcher, signals_heard_by
from packformer.requirements import LAST_CHECKPOINT
from packformer.settings import check_settings
from packformer.training.checkpoint import why_damaged
from packformer.training.former import FormerCheckpoints
from packformer.training.step_end import ends_step

log = logging.getLogger(__name__)


class LastCheckpoint(Checkpoint):
    """Saves whole optimizer steps, never within an accumulation.

    Lightning's ``ModelCheckpoint`` writes its own ``last.ckpt`` only where it saves its best. If a
    validation is due after a step, the checkpoint is saved after that validation, so that a resumed
    run does not miss it. On Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 the run finishes its step, or its
    validation, and saves. A second signal ends it at once. Several ranks agree at records.

    An error while the next row is waited for, such as a loader process that was killed, loses no
    step either: the run is saved before it ends. Several ranks, which cannot agree then, lose what
    came after the last save.

    Args:
        every_minutes: between saves.
        keep: checkpoints that are kept; the one before the last, ``previous.ckpt``, stays until
            the last has been read back.

    Attributes:
        file: where to save to; set by the run.
    """

    def __init__(self, every_minutes: float = 10.0, keep: int = 2) -> None:
        given = {"every_minutes": every_minutes, "keep": keep}
        check_settings("callbacks.last_checkpoint", LAST_CHECKPOINT, given)
        self.file: Path | None = None
        self._keep = keep
        self._former: FormerCheckpoints | None = None
        self._seconds = 60 * every_minutes
        self._saved = time.monotonic()
        self._asked = 0  # the number of the signal
        self._ending = 0
        self._heard = ExitStack()
        self._is_between = False  # two rows, with no validation due
        self._saved_step = -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved = time.monotonic()
        self._heard.enter_context(signals_heard_by(self._ask))

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise Interrupted(number)
        self._asked = number
        log.warning("interrupted: saving after this step (once more to stop at once)")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._is_between = False
        if self._ending:  # the validation that was due is over, and has saved
            self._end(trainer, self._ending)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        # Lightning counts micro-batches here.
        is_validation_due = (batch_idx + 1) % trainer.val_check_interval == 0
        self._is_between = not is_validation_due
        if not ends_step(trainer, batch_idx):
            return
        asked, due = self._asked, int(time.monotonic() - self._saved > self._seconds)
        if trainer.world_size > 1:
            if trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
                return
            asked, due = _of_any_rank(trainer, asked, due)
        if not asked and not due:
            return
        if is_validation_due:
            self._ending = asked
            return
        self._save(trainer)
        if asked:
            self._end(trainer, asked)

    def _end(self, trainer: L.Trainer, number: int) -> NoReturn:
        if trainer.world_size > 1:
            outlive_launcher()
        raise Interrupted(number)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # As a Checkpoint, after all other callbacks: what they know of the validation is saved.
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        assert self.file is not None
        if self._former is None:
            self._former = FormerCheckpoints(self.file, self._keep, why_damaged)
        trainer.save_checkpoint(self.file, storage_options=self._former)
        self._saved = time.monotonic()
        self._saved_step = trainer.global_step

    def check(self) -> None:
        """Reads the last save back; raises as ``FormerCheckpoints.check``."""
        if self._former is not None:
            self._former.check()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self._heard.close()
        is_error = isinstance(exception, Exception)  # and no second signal
        is_unsaved = self._is_between and trainer.global_step != self._saved_step
        if is_error and is_unsaved and trainer.world_size == 1:
            try:
                self._save(trainer)
                log.warning("saved after step %d", trainer.global_step)
            except (OSError, ValueError) as failure:
                log.warning("not saved after step %d: %s", trainer.global_step, failure)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._heard.close()


@contextmanager
def reading_back(trainer: L.Trainer) -> Iterator[None]:
    """Reads back what the body saved last, however it ends.

    Args:
        trainer: that trains in the body; it may save in a thread until that ends.

    Raises:
        OSError: if it is not as it was written. If the body raises an error, that one is raised,
            and this one is logged.
    """
    callbacks = trainer.checkpoint_callbacks
    saving = [callback for callback in callbacks if isinstance(callback, LastCheckpoint)]
    try:
        yield
    except BaseException:
        for callback in saving:
            try:
                callback.check()
            except OSError as error:
                log.warning(error)
        raise
    for callback in saving:
        callback.check()


def _of_any_rank(trainer: L.Trainer, *numbers: int) -> list[int]:
    """The highest that any rank has, of each number."""
    own = torch.tensor(numbers, dtype=torch.int32, device=trainer.strategy.root_device)
    return [int(number) for number in trainer.strategy.reduce(own, reduce_op="max")]
