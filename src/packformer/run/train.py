"""One run, from configuration to summary."""

from __future__ import annotations

import logging
import time
import warnings
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from filelock import BaseFileLock
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from packformer.attention import select_kernel
from packformer.counted import counted
from packformer.data import PackedDataModule
from packformer.data.ahead import Ahead
from packformer.layer_pattern import letters_of_layers, pattern_of
from packformer.model import GPT
from packformer.model.deferred import Deferred
from packformer.ranks.launched import check_processes
from packformer.ranks.others import rank_zero_first
from packformer.ranks.starting import watch_ranks
from packformer.ranks.termination import hear_sigterm_alone
from packformer.run import wandb
from packformer.run.build import (
    build_data,
    build_model,
    build_module,
    build_trainer,
    quiet_lightning,
    rows_of_step,
)
from packformer.run.callbacks import tell_what_is_left_out
from packformer.run.curve import draw_loss_curve
from packformer.run.device import (
    check_strategy,
    is_sharded,
    num_devices,
    resolve_accelerator,
    resolve_precision,
)
from packformer.run.first_step import FirstStep
from packformer.run.folder import write_records
from packformer.run.lock import lock_run
from packformer.run.loggers import build_loggers, check_loggers
from packformer.run.naming import run_name
from packformer.run.of_sweep import in_sweep, to_go_on
from packformer.run.own_ranks import start_own_ranks
from packformer.run.place import checkpoint_of, folder_of
from packformer.run.read_source import take_weights
from packformer.run.recorded import recorded
from packformer.run.rehearsal import rehearse
from packformer.run.resume import (
    CONFIG_FILE,
    LAST_CHECKPOINT,
    SUMMARY_FILE,
    binding_differences,
    changed_settings,
    identity_in_words_of,
    identity_of,
    other_settings,
)
from packformer.run.same_ranks import SameRanks
from packformer.run.secrets import refuse_secrets
from packformer.run.start_times import StartTimes
from packformer.run.step_rows import StepRows
from packformer.run.summary import print_summary, read_summary, summarize, write_summary
from packformer.training import TrainingModule
from packformer.training.checkpoint import OtherTraining, check_checkpoint
from packformer.training.compilation import loading_compiler
from packformer.training.module import DTYPES

log = logging.getLogger(__name__)


# What Lightning advises without knowing that rows are made in memory and that data never end.
_LIGHTNING_HINTS = (
    ".*does not have many workers.*",
    ".*IterableDataset.*has `__len__` defined.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*Trying to infer the `batch_size`.*",
    ".*You're resuming from a checkpoint that ended before the epoch ended.*",
    ".*Be aware that when using `ckpt_path`, callbacks used to create the checkpoint.*",
    ".*recommended to use `self.log.*sync_dist=True.*",
    ".*isinstance\\(treespec, LeafSpec\\).*",
    # What Lightning calls of torch.
    ".*torch.distributed.nn.functional.all_gather is deprecated.*",
)


def train(config: DictConfig, times: StartTimes, ahead: Ahead) -> float:
    """Runs what ``config`` describes.

    Args:
        config: as composed.
        times: of the start, until here.
        ahead: of the data.

    Returns:
        The final value of ``config.objective``, for sweepers.

    Raises:
        ValueError: if something in the configuration, the data or a checkpoint cannot be used.
    """
    began = time.perf_counter()
    _log_to_console()
    quiet_lightning()
    _leave_out_samples_of_sweeps(config)
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    overrides = HydraConfig.get().overrides
    refuse_secrets(plain, [*overrides.task, *overrides.hydra])
    accelerator = resolve_accelerator(config.trainer.accelerator)
    precision = resolve_precision(str(config.trainer.precision), accelerator)
    check_processes(
        num_devices(config.trainer.devices, accelerator),
        config.trainer.get("num_nodes", 1),
        in_sweep=HydraConfig.get().mode == RunMode.MULTIRUN,
    )
    rows = rows_of_step(plain["trainer"], accelerator)
    strategy = config.trainer.get("strategy")
    check_strategy(strategy, rows.num_devices, precision)
    check_loggers(config.get("logger"))
    start_own_ranks(rows.num_devices // config.trainer.get("num_nodes", 1))
    rehearse(config, plain, accelerator, precision)
    _forget_former_job()
    times.ended("rehearsal")
    with rank_zero_first():
        checkpoint = checkpoint_of(config, plain)
        folder = folder_of(checkpoint)
        trainer = build_trainer(config, folder, accelerator=accelerator, precision=precision)
        watch_ranks(trainer)
        hear_sigterm_alone(trainer)
        L.seed_everything(config.seed, verbose=False)
        ahead.wait()
        data = build_data(config)
    times.ended("data")
    _check_objective(config.objective, data)
    deferred = Deferred() if is_sharded(strategy) else None
    compiles = accelerator == "cuda" and config.compile is not False
    with loading_compiler(needed=compiles), deferred or nullcontext():
        model = build_model(config, data)
    for asked in dict.fromkeys(model.asked_of_kernels(accelerator, DTYPES[precision])):
        select_kernel(*asked)
    started = None
    if checkpoint is None and config.init_from is not None:
        source = Path(str(config.init_from)).expanduser()
        started = take_weights(source, model, data.splits.tokenizer, deferred)
    identity = identity_of(plain)
    resumed_step = None
    if checkpoint is not None:
        resumed_step = _check_checkpoint(checkpoint, model, data, plain)
        deferred = None  # the checkpoint's weights need no others before them
    module = build_module(config, model, data, accelerator, precision, identity, deferred)
    found = {"the data's fingerprint": data.splits.fingerprint, "the step to go on": resumed_step}
    trainer.callbacks[:0] = [FirstStep(times), SameRanks(plain, found)]  # type: ignore[attr-defined]

    changes = changed_settings(folder, plain) if (folder / CONFIG_FILE).is_file() else []
    if resumed_step is not None and resumed_step > config.trainer.max_steps:
        raise ValueError(
            f"the run has done {counted(resumed_step, 'step')}, more than trainer.max_steps "
            f"({config.trainer.max_steps}): raise it"
        )
    loggers = build_loggers(config.get("logger"), folder)
    # A finished run is measured again, and what is recorded of it stays as it is.
    finished = resumed_step == config.trainer.max_steps and (folder / SUMMARY_FILE).is_file()
    # Nothing is written before this line: what cannot run leaves nothing behind.
    lock = _lock(folder)
    failed = True
    try:
        if not finished:
            record = recorded(plain, model.vocab_size)
            write_records(folder, record, data.splits.tokenizer)
            if loggers is not None:
                trainer.loggers = loggers.start(config, record, checkpoint)
        _announce(config, trainer, module, data, rows, folder, resumed_step, changes)
        for told in started or ():
            log.info("start    %s", told)
        if finished:
            log.warning(
                "finished before: measured again, nothing is recorded; to train on, raise "
                "trainer.max_steps above %d",
                config.trainer.max_steps,
            )
        with warnings.catch_warnings():
            for hint in _LIGHTNING_HINTS:
                warnings.filterwarnings("ignore", hint)
            trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
            metrics = _final_metrics(trainer, module, data)
        seconds = time.perf_counter() - began
        summary = summarize(
            trainer,
            module,
            metrics,
            name=run_name(config),
            folder=folder,
            seconds=seconds,
            times=times,
        )
        if finished:
            summary |= {**read_summary(folder), **metrics}
        _record(summary, folder, finished)
        failed = False
    except SystemExit as end:  # how Lightning ends after Ctrl-C
        if (folder / LAST_CHECKPOINT).is_file():
            log.warning(to_go_on(folder))
        raise KeyboardInterrupt from end
    finally:
        wandb.finish(failed=failed)
        if lock is not None:
            lock.release()
    return metrics[config.objective]


def _leave_out_samples_of_sweeps(config: DictConfig) -> None:
    hydra = HydraConfig.get()
    asked_for = any("callbacks.samples" in override for override in hydra.overrides.task)
    if in_sweep() and not asked_for and config.get("callbacks"):
        OmegaConf.update(config, "callbacks.samples", None, force_add=True)


def _check_checkpoint(
    checkpoint: Path, model: GPT, data: PackedDataModule, config: dict[str, Any]
) -> int:
    """The step it was saved at. Differences are reported by the names of settings, if they are
    settings."""
    try:
        return check_checkpoint(
            checkpoint,
            model,
            data.stream,
            identity_of(config),
            in_its_words=partial(identity_in_words_of, config),
        )
    except OtherTraining as error:
        different = binding_differences(checkpoint, config)
        if different:
            raise ValueError(other_settings(checkpoint, different)) from error
        raise


@rank_zero_only
def _lock(folder: Path) -> BaseFileLock | None:
    return lock_run(folder)


@rank_zero_only
def _log_to_console() -> None:
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("packformer").setLevel(logging.INFO)


def _forget_former_job() -> None:
    """In a sweep: each job compiles afresh (torch stops after a few times) and has its own peak."""
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _check_objective(objective: str, data: PackedDataModule) -> None:
    measured = ["loss", "perplexity"]
    measured += ["bits_per_byte"] if data.splits.byte_lengths is not None else []
    measured += ["answer_accuracy", "exact_match"] if data.splits.scores_answers else []
    per_corpus = [name for name in measured if name in ("loss", "bits_per_byte")]
    measured += [f"{name}/{corpus}" for name in per_corpus for corpus in data.corpora]
    names = [f"val/{name}" for name in measured]
    if objective not in names:
        raise ValueError(f"objective ({objective}) must be one of {', '.join(names)}")


def _announce(
    config: DictConfig,
    trainer: L.Trainer,
    module: TrainingModule,
    data: PackedDataModule,
    rows: StepRows,
    folder: Path,
    resumed_step: int | None,
    changes: list[str],
) -> None:
    log.info("run      %s", run_name(config))
    log.info("data     %s", data.splits.description)
    most = counted(data.max_documents, "document")
    log.info("rows     %s in up to %s", counted(data.row_length, "token"), most)
    log.info("batch    %s (%s)", rows, counted(rows.total * data.row_length, "token"))
    log.info("model    %s", counted(module.model.num_parameters(), "parameter"))
    if pattern := pattern_of(config):
        log.info("layers   %s", letters_of_layers(pattern, config.model.num_layers))
    if module.loss_chunk < data.row_length:
        log.info("loss     the logits of %s at a time", counted(module.loss_chunk, "token"))
    tell_what_is_left_out(trainer.callbacks)  # type: ignore[attr-defined]
    log.info("folder   %s", folder)
    warmup, steps = config.scheduler.get("warmup_steps"), config.trainer.max_steps
    if isinstance(warmup, int) and warmup >= steps:
        log.warning(
            "schedule scheduler.warmup_steps (%d) is not below trainer.max_steps (%d): the rate "
            "only rises",
            warmup,
            steps,
        )
    if resumed_step is not None:
        log.info("resumed  after step %d", resumed_step)
    for change in changes:
        log.info("changed  %s", change)


def _final_metrics(
    trainer: L.Trainer, module: TrainingModule, data: PackedDataModule
) -> dict[str, float]:
    """Validation metrics of the last step; measured now if a resumed run had no step left."""
    if not module.has_validated:
        trainer.validate(module, data, verbose=False)
    return {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith("val/")
    }


@rank_zero_only
def _record(summary: dict[str, Any], folder: Path, finished: bool) -> None:
    if not finished:
        draw_loss_curve(folder, summary["name"])
        write_summary(summary, folder)
    asked_for = Path(HydraConfig.get().runtime.output_dir)
    if asked_for.is_dir() and asked_for != folder:  # the resumed job of a sweep
        write_summary(summary, asked_for)
    print_summary(summary, folder)
