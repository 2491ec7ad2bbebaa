"""A run, from its configuration to what will train."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from packformer.attention import select_kernel
from packformer.compilers import Compilers
from packformer.counted import counted
from packformer.data import PackedDataModule, PackingSettings
from packformer.data.ahead import Ahead
from packformer.model import GPT
from packformer.model.deferred import Deferred
from packformer.ranks.launched import check_processes, rank
from packformer.ranks.others import rank_zero_first
from packformer.ranks.starting import watch_ranks
from packformer.ranks.termination import keep_signals_from
from packformer.run.binding import (
    binding_differences,
    binding_identity_of,
    identity_in_words_of,
    identity_of,
    other_settings,
)
from packformer.run.build import (
    build_data,
    build_model,
    build_module,
    build_trainer,
    rows_of_step,
)
from packformer.run.compiled_ahead import CompiledAhead, compile_ahead
from packformer.run.device import (
    check_strategy,
    num_devices,
    resolve_accelerator,
    resolve_precision,
)
from packformer.run.first_step import FirstStep
from packformer.run.loggers import check_loggers
from packformer.run.new_data import MADE_OF_DATA, new_data_of, to_go_on_with_it
from packformer.run.own_ranks import start_own_ranks
from packformer.run.place import Claim
from packformer.run.read_source import take_weights
from packformer.run.rehearsal import check_scores, rehearse
from packformer.run.resume import (
    SUMMARY_FILE,
)
from packformer.run.same_ranks import SameRanks
from packformer.run.start_times import StartTimes
from packformer.run.step_rows import StepRows
from packformer.run.strategies import is_sharded
from packformer.run.with_lower_rate import with_lower_rate
from packformer.training import FiniteGuard, TrainingModule
from packformer.training.checkpoint import OtherData, OtherTraining, check_checkpoint
from packformer.training.compilation import loading_compiler
from packformer.training.memory import forget_process_peak
from packformer.training.precision import DTYPES

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Devices:
    """What a run trains on.

    Attributes:
        accelerator: ``"cuda"`` or ``"cpu"``.
        precision: Lightning's name.
        rows: of an optimizer step, and how the devices share them.
    """

    accelerator: str
    precision: str
    rows: StepRows


@dataclass(frozen=True)
class Run:
    """A run that is ready to train. Nothing is written yet.

    Attributes:
        devices: what it trains on.
        folder: of the run.
        checkpoint: that it continues from; None for a new run.
        resumed_step: at which that was saved.
        finished: whether the run had finished: it is measured again.
        trainer: without loggers.
        data: prepared.
        module: with the model.
        taken: what was taken from ``init_from``, one line each.
        new_data: the fingerprint of data that take the place of the run's; None if it has its own.
    """

    devices: Devices
    folder: Path
    checkpoint: Path | None
    resumed_step: int | None
    finished: bool
    trainer: L.Trainer
    data: PackedDataModule
    module: TrainingModule
    taken: Sequence[str]
    new_data: str | None


def assemble(
    config: DictConfig,
    plain: dict[str, Any],
    times: StartTimes,
    ahead: Ahead,
    claim: Claim,
    compilers: Compilers,
) -> Run:
    """Builds everything, what is quickly told wrong first.

    Args:
        config: as composed.
        plain: the same, resolved, as plain types.
        times: of the start.
        ahead: of the data.
        claim: that takes the run's folder.
        compilers: that compile its kernel.

    Raises:
        ValueError: if something in the configuration, the data or a checkpoint cannot be used.
    """
    devices = _devices(config, plain)
    check_loggers(config.get("logger"))
    start_own_ranks(devices.rows.num_devices // config.trainer.get("num_nodes", 1))

    def compile_kernel(sketch: GPT, packing: PackingSettings) -> None:
        if rank() == 0:
            dtype = DTYPES[devices.precision]
            compile_ahead(compilers, sketch, devices.accelerator, dtype, packing)

    rehearse(config, plain, devices.accelerator, devices.precision, compile_kernel)
    compilers.dismiss()
    _forget_former_job()
    times.ended("rehearsal")
    with rank_zero_first():
        checkpoint, folder = claim.take(config, plain)
        trainer = _trainer(config, folder, devices)
        L.seed_everything(config.seed, verbose=False)
        ahead.wait()
        data = build_data(config)
    times.ended("data")
    _check_objective(config.objective, data)
    model, deferred = _model(config, data, devices)
    taken: Sequence[str] = ()
    resumed_step = None
    new_data = None if checkpoint is None else new_data_of(checkpoint, data, plain)
    if checkpoint is not None:
        try:
            resumed_step = _check_checkpoint(checkpoint, model, data, plain, new_data)
        except OtherTraining as error:
            if config.resume != "auto":
                raise
            log.info("resume=auto: %s, starting a new one", error.args[0].split(";")[0])
            checkpoint = None
            folder = claim.start_anew()
            trainer = _trainer(config, folder, devices)
    if checkpoint is not None:
        assert resumed_step is not None
        _check_steps(resumed_step, config.trainer.max_steps)
        deferred = None  # the checkpoint's weights need no others before them
    elif config.init_from is not None:
        source = Path(str(config.init_from)).expanduser()
        taken = take_weights(source, model, data.splits.tokenizer, deferred)
    module = build_module(
        config, model, data, devices.accelerator, devices.precision, identity_of(plain), deferred
    )
    module.scores_are_of_other_data = checkpoint is not None and new_data is not None
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, FiniteGuard):
            callback.name_document = data.name_document
            callback.how_to_go_on = partial(with_lower_rate, folder, plain)
    found = {
        "the data's fingerprint": data.splits.fingerprint,
        "the step to continue from": resumed_step,
    }
    trainer.callbacks[:0] = [  # type: ignore[attr-defined]
        FirstStep(times),
        SameRanks(plain, found),
        CompiledAhead(compilers),
    ]
    finished = resumed_step == config.trainer.max_steps and (folder / SUMMARY_FILE).is_file()
    return Run(
        *(devices, folder, checkpoint, resumed_step, finished, trainer, data, module, taken),
        new_data,
    )


def _trainer(config: DictConfig, folder: Path, devices: Devices) -> L.Trainer:
    trainer = build_trainer(
        config, folder, accelerator=devices.accelerator, precision=devices.precision
    )
    watch_ranks(trainer)
    keep_signals_from(trainer)
    return trainer


def _devices(config: DictConfig, plain: dict[str, Any]) -> Devices:
    accelerator = resolve_accelerator(config.trainer.accelerator)
    precision = resolve_precision(str(config.trainer.precision), accelerator)
    check_processes(
        num_devices(config.trainer.devices, accelerator),
        config.trainer.get("num_nodes", 1),
        in_sweep=HydraConfig.get().mode == RunMode.MULTIRUN,
    )
    rows = rows_of_step(plain["trainer"], accelerator)
    check_strategy(config.trainer.get("strategy"), rows.num_devices, precision)
    return Devices(accelerator, precision, rows)


def _model(
    config: DictConfig, data: PackedDataModule, devices: Devices
) -> tuple[GPT, Deferred | None]:
    """With random weights; in shards they are drawn later."""
    deferred = Deferred() if is_sharded(config.trainer.get("strategy")) else None
    compiles = devices.accelerator == "cuda" and config.compile is not False
    with loading_compiler(needed=compiles), deferred or nullcontext():
        model = build_model(config, data)
    dtype = DTYPES[devices.precision]
    check_scores(model, dtype)
    for asked in dict.fromkeys(model.asked_of_kernels(devices.accelerator, dtype)):
        select_kernel(*asked)
    return model, deferred


def _check_steps(done: int, asked: int) -> None:
    if done > asked:
        raise ValueError(
            f"the run has done {counted(done, 'step')}, more than trainer.max_steps ({asked}): "
            "raise it"
        )


def _check_checkpoint(
    checkpoint: Path,
    model: GPT,
    data: PackedDataModule,
    config: dict[str, Any],
    new_data: str | None,
) -> int:
    """The step it was saved at. Differences are reported by the names of settings, if they are
    settings."""
    stream = data.stream
    if new_data is not None:
        stream = {name: value for name, value in stream.items() if name not in MADE_OF_DATA}
    try:
        return check_checkpoint(
            checkpoint,
            model,
            stream,
            binding_identity_of(config),
            in_its_words=partial(identity_in_words_of, config),
        )
    except OtherTraining as error:
        different = binding_differences(checkpoint, config)
        if different:
            raise OtherTraining(other_settings(checkpoint, different)) from error
        if isinstance(error, OtherData):
            raise OtherData(f"{error}; {to_go_on_with_it(checkpoint, config)}") from error
        raise


def _forget_former_job() -> None:
    """In a sweep: each job compiles afresh (torch stops after a few times) and has its own peak."""
    torch.compiler.reset()
    forget_process_peak()
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
