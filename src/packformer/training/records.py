"""What a run records about itself every few steps."""

from __future__ import annotations

import logging
import math
import statistics
import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy

from packformer.batch import PackedBatch
from packformer.model.flops import score_products, training_flops
from packformer.requirements import RECORDS
from packformer.settings import check_settings
from packformer.training.memory import peak_gpu_bytes, peak_process_bytes
from packformer.training.module import TrainingModule
from packformer.training.peak_flops import peak_flops
from packformer.training.rank_counts import RankCounts, Totals
from packformer.training.rank_wait import RankWait
from packformer.training.step_end import ends_step
from packformer.training.weight_decay import largest_weight_decay

log = logging.getLogger(__name__)


def is_record_due(trainer: L.Trainer, batch_idx: int) -> bool:
    """After every ``log_every_n_steps`` optimizer steps, and after the last."""
    step = trainer.global_step
    due = step % trainer.log_every_n_steps == 0 or step == trainer.max_steps  # type: ignore[attr-defined]
    return due and ends_step(trainer, batch_idx)


def learning_rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """``train/learning_rate`` of the first group of parameters; groups that began with another
    rate are numbered: ``train/learning_rate_1``."""
    rates: dict[str, float] = {}
    begun = set()
    for number, group in enumerate(optimizer.param_groups):
        begin = float(group["initial_lr"])
        if begin not in begun:
            begun.add(begin)
            rates["train/learning_rate" + (f"_{number}" if number else "")] = float(group["lr"])
    return rates


def _z_loss(module: TrainingModule) -> dict[str, float]:
    """What z-loss adds to the loss of a counted token."""
    sums = module.train_z_loss
    return {} if sums is None else {"train/z_loss": sums.compute()["loss"]}


def _mean_but_first(values: list[float]) -> float:
    return statistics.fmean(values[1:] or values or [math.nan])


class StepRecords(L.Callback):
    """Logs loss, throughput, packing and memory every ``log_every_n_steps`` optimizer steps.

    The device is read only then, and only then do ranks exchange what they counted. Throughput is
    counted tokens (those with a target) per second of training, over all ranks; validation and
    checkpoints do not count. Model-flops utilisation compares the flops the true document lengths
    need with the peak of all GPUs, which is that of half precision also where layers compute in
    float8. Several ranks also record how unequal attention's work was (``data/imbalance``, see
    ``Totals``), and under DDP the share of the time in which gradients of others were waited for
    (``train/rank_wait``).

    Args:
        peak_tflops: of one GPU, 1e12 flops per second; None for its data sheet's dense
            half-precision rate, and no utilisation where that is not known or training uses
            another precision.

    Attributes:
        latest: metrics of the last record, by their names in the log.
        tokens_seen: counted tokens trained on, over all ranks, resumed runs included.
        flops: that forward and backward of these needed, see ``training_flops``; None in a run that
            began without counting them.
    """

    def __init__(self, peak_tflops: float | None = None) -> None:
        check_settings("callbacks.records", RECORDS, {"peak_tflops": peak_tflops})
        self._peak = None if peak_tflops is None else peak_tflops * 1e12
        self.latest: dict[str, float] = {}
        self.tokens_seen = 0
        self.flops: float | None = 0.0
        self._validated_step = 0
        self._num_tokens = 0
        self._row_tokens = 0
        self._rates: list[float] = []
        self._waits: list[float] = []
        self._rank_waits: list[float] = []
        self._imbalances: list[float] = []
        self._waited = 0.0
        self._learning_rates: dict[str, float] = {}
        self._trainer: L.Trainer | None = None
        self._rank_wait: RankWait | None = None
        self._reset()

    def _reset(self) -> None:
        self._counts = RankCounts()
        self._start = time.perf_counter()
        self._pause: float | None = None

    @property
    def tokens_per_second(self) -> float:
        """Median over the records but the first, which pays for compilation and warm-up."""
        return statistics.median(self._rates[1:] or self._rates or [math.nan])

    @property
    def data_wait(self) -> float:
        """Share of the time spent waiting for data, mean over the records but the first."""
        return _mean_but_first(self._waits)

    @property
    def rank_wait(self) -> float:
        """Share of the time spent waiting for other ranks, mean over the records but the first; NaN
        where that is not measured."""
        return _mean_but_first(self._rank_waits)

    @property
    def imbalance(self) -> float:
        """Attention's work on the busiest rank over the mean, mean over the records; NaN on one."""
        return statistics.fmean(self._imbalances or [math.nan])

    @property
    def fill(self) -> float:
        """Share of the rows' tokens that were document."""
        return self._num_tokens / self._row_tokens if self._row_tokens else math.nan

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._reset()
        self._trainer = trainer
        if trainer.world_size > 1 and isinstance(trainer.strategy, DDPStrategy):
            self._rank_wait = RankWait(pl_module)
        device = trainer.strategy.root_device
        if device.type == "cuda" and self._peak is None:
            name = torch.cuda.get_device_name(device)
            half = trainer.precision not in ("32-true", "64-true")
            self._peak = peak_flops(name) if half else None
            if self._peak is None:
                log.info("no model-flops utilisation: set callbacks.records.peak_tflops (%s)", name)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()  # steps still under way are training, not pause
        self._pause = time.perf_counter()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._pause is not None:
            self._start += time.perf_counter() - self._pause
            self._pause = None
        if self._rank_wait is not None:
            self._rank_wait.expect(ends_step(trainer, batch_idx))

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._rank_wait is not None:
            self._rank_wait.all_came(trainer.strategy.root_device)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        # When the step is recorded, the schedule has set those of the next one.
        self._learning_rates = learning_rates(optimizer)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: PackedBatch,
        batch_idx: int,
    ) -> None:
        assert isinstance(pl_module, TrainingModule)
        model = pl_module.model
        products = score_products(model, batch.lengths)
        self._counts.add(batch, training_flops(model, batch.num_tokens, products), products)
        if is_record_due(trainer, batch_idx):
            self._record(trainer, pl_module, batch)
        elif ends_step(trainer, batch_idx):
            self._counts.step_ended()

    def _record(self, trainer: L.Trainer, module: TrainingModule, batch: PackedBatch) -> None:
        loss = module.train_loss.compute()["loss"]  # waits for the device
        seconds = time.perf_counter() - self._start
        totals = self._counts.over_ranks(
            trainer,
            data_wait=module.data_wait.seconds - self._waited,
            rank_wait=self._rank_wait.take_seconds() if self._rank_wait is not None else 0.0,
        )
        self.tokens_seen += totals.targets
        if self.flops is not None:
            self.flops += totals.flops
        self._num_tokens += totals.tokens
        self._row_tokens += totals.row_tokens
        rate = totals.targets / seconds
        self._rates.append(rate)
        self._waits.append(totals.data_wait / seconds)
        self._waited = module.data_wait.seconds
        state = batch.packer_state
        assert state is not None, "a record ends a whole step"
        counts = state["counts"]
        self.latest = {
            "train/loss": loss,
            **_z_loss(module),
            "train/tokens_per_second": rate,
            **self._learning_rates,
            "train/weight_decay": largest_weight_decay(trainer.optimizers[0].param_groups),
            "data/tokens_seen": self.tokens_seen,
            "data/fill": self.fill,
            "data/wait": self._waits[-1],
            "data/epoch": max(cursor["epoch"] for cursor in state["cursors"]),
            **{f"data/{name}": value for name, value in counts.items()},
        }
        if self.flops is not None:
            self.latest["train/flops"] = self.flops
        if trainer.world_size > 1:
            self.latest |= self._of_ranks(trainer.world_size, totals, seconds)
        if module.grad_norm is not None:
            self.latest["train/grad_norm"] = float(module.grad_norm)
        module.step_guard.settle()
        self.latest["train/skipped_steps"] = module.step_guard.skipped_steps
        memory = {
            "memory/peak_gpu_bytes": peak_gpu_bytes(trainer.strategy.root_device),
            "memory/peak_process_bytes": peak_process_bytes(),
        }
        self.latest |= {name: peak for name, peak in memory.items() if peak is not None}
        if self._peak is not None:
            peak = self._peak * trainer.world_size
            self.latest["train/model_flops_utilisation"] = totals.flops / seconds / peak
        for logger in trainer.loggers:
            logger.log_metrics(self.latest, step=trainer.global_step)
        self._reset()

    def _of_ranks(self, world_size: int, totals: Totals, seconds: float) -> dict[str, float]:
        found = {
            "train/tokens_per_second_per_device": totals.targets / seconds / world_size,
            "data/imbalance": totals.imbalance,
        }
        self._imbalances.append(totals.imbalance)
        if self._rank_wait is not None:
            self._rank_waits.append(totals.rank_wait / seconds)
            found["train/rank_wait"] = self._rank_waits[-1]
        return found

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._rank_wait is not None:
            self._rank_wait.stop()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        metrics = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val/")
        }
        self.latest = {**self.latest, **metrics}  # loggers may keep what they were given
        if self._validated_step == trainer.global_step:
            return  # recorded before the run was killed, and measured again for its end
        self._validated_step = trainer.global_step
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        since = self._counts.over_ranks(self._trainer)  # Lightning asks every rank
        return {
            "tokens_seen": self.tokens_seen + since.targets,
            "flops": None if self.flops is None else self.flops + since.flops,
            "validated_step": self._validated_step,
            "num_tokens": self._num_tokens + since.tokens,
            "row_tokens": self._row_tokens + since.row_tokens,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.tokens_seen = state_dict["tokens_seen"]
        self.flops = state_dict.get("flops")
        self._validated_step = state_dict.get("validated_step", 0)
        self._num_tokens = state_dict["num_tokens"]
        self._row_tokens = state_dict["row_tokens"]
