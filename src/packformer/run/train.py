"""One run, from configuration to summary."""

from __future__ import annotations

import logging
import time
import warnings
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from packformer.compilers import Compilers
from packformer.counted import counted
from packformer.data.ahead import Ahead
from packformer.layer_pattern import letters_of_layers, pattern_of
from packformer.run import wandb
from packformer.run.assembly import Run, assemble
from packformer.run.build import quiet_lightning
from packformer.run.callbacks import tell_what_is_left_out
from packformer.run.continued import choices_of_run, overrides_of_run
from packformer.run.curve import draw_loss_curve
from packformer.run.folder import remove_leftovers, write_records
from packformer.run.loggers import build_loggers
from packformer.run.naming import name_of
from packformer.run.of_sweep import in_sweep, to_go_on
from packformer.run.place import Claim
from packformer.run.recorded import recorded
from packformer.run.resume import CONFIG_FILE, changed_settings, checkpoints_in
from packformer.run.start_times import StartTimes
from packformer.run.summary import print_summary, read_summary, summarize, write_summary
from packformer.run.trusted import trust
from packformer.training.compilation import naming_compiled_code
from packformer.training.incomplete import forget_lost, goes_on_without, tell_lost
from packformer.training.last_checkpoint import reading_back

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


def train(config: DictConfig, times: StartTimes, ahead: Ahead, compilers: Compilers) -> float:
    """Runs what ``config`` describes.

    Args:
        config: as composed.
        times: of the start, until here.
        ahead: of the data.
        compilers: of its kernel.

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
    with Claim() as claim:
        run = assemble(config, plain, times, ahead, claim, compilers)
        return _train(config, plain, run, claim, times=times, began=began)


def _train(
    config: DictConfig,
    plain: dict[str, Any],
    run: Run,
    claim: Claim,
    *,
    times: StartTimes,
    began: float,
) -> float:
    """Trains what is assembled; returns the final value of the objective."""
    is_old = (run.folder / CONFIG_FILE).is_file()
    changes = changed_settings(run.folder, plain) if is_old else []
    given = HydraConfig.get().overrides.task
    choices, overrides = choices_of_run(run.folder, given), overrides_of_run(run.folder, given)
    name = name_of(str(config.name), overrides)
    loggers = build_loggers(config.get("logger"), run.folder)
    forget_lost()
    trust(plain)
    # Nothing but locks is written before this line: what cannot run leaves nothing behind.
    failed = True
    try:
        if not run.finished:
            record = recorded(plain, run.module.model.vocab_size, choices, overrides, run.new_data)
            remove_leftovers(run.folder, run.trainer.checkpoint_callbacks)
            write_records(run.folder, record, run.data.splits.tokenizer)
            if loggers is not None:
                run.trainer.loggers = loggers.start(name, record, run.checkpoint)
        claim.is_recorded()
        _announce(config, run, name, changes)
        metrics = _fit(run)
        summary = summarize(
            run.trainer,
            run.module,
            metrics,
            name=name,
            folder=run.folder,
            resumed_step=run.resumed_step,
            seconds=time.perf_counter() - began,
            times=times,
        )
        _record(summary, metrics, run)
        failed = False
    except SystemExit as end:  # how Lightning ends after Ctrl-C
        if checkpoints_in(run.folder):
            log.warning(to_go_on(run.folder))
        heard = end.__context__
        raise heard if isinstance(heard, KeyboardInterrupt) else KeyboardInterrupt from end
    finally:
        with goes_on_without("W&B"):
            wandb.finish(failed=failed)
    return metrics[config.objective]


def _leave_out_samples_of_sweeps(config: DictConfig) -> None:
    hydra = HydraConfig.get()
    asked_for = any("callbacks.samples" in override for override in hydra.overrides.task)
    if in_sweep() and not asked_for and config.get("callbacks"):
        OmegaConf.update(config, "callbacks.samples", None, force_add=True)


@rank_zero_only
def _log_to_console() -> None:
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("packformer").setLevel(logging.INFO)


def _announce(config: DictConfig, run: Run, name: str, changes: list[str]) -> None:
    data, model = run.data, run.module.model
    rows, steps = run.devices.rows, config.trainer.max_steps
    log.info("run      %s", name)
    log.info("data     %s", data.splits.description)
    most = counted(data.max_documents, "document")
    log.info("rows     %s in up to %s", counted(data.row_length, "token"), most)
    longest = config.packing.max_document_length
    if isinstance(longest, int) and longest > data.row_length:
        log.warning(
            "rows     packing.max_document_length (%d) is above packing.row_length (%d), which "
            "limits it",
            longest,
            data.row_length,
        )
    log.info("batch    %s (%s)", rows, counted(rows.total * data.row_length, "token"))
    log.info("model    %s", counted(model.num_parameters(), "parameter"))
    if pattern := pattern_of(config):
        log.info("layers   %s", letters_of_layers(pattern, config.model.num_layers))
    if run.module.loss_chunk < data.row_length:
        log.info("loss     the logits of %s at a time", counted(run.module.loss_chunk, "token"))
    tell_what_is_left_out(run.trainer.callbacks)  # type: ignore[attr-defined]
    log.info("folder   %s", run.folder)
    warmup = config.scheduler.get("warmup_steps")
    if isinstance(warmup, int) and warmup >= steps:
        log.warning(
            "schedule scheduler.warmup_steps (%d) is not below trainer.max_steps (%d): the rate "
            "only rises",
            warmup,
            steps,
        )
    if run.resumed_step is not None:
        log.info("resumed  after step %d", run.resumed_step)
    for change in changes:
        log.info("changed  %s", change)
    if run.new_data is not None:
        log.info(
            "changed  the data: rows start from their beginning, the best weights are chosen anew"
        )
    for told in run.taken:
        log.info("start    %s", told)
    if run.finished:
        log.warning(
            "finished before: measured again, nothing is recorded; to train on, raise "
            "trainer.max_steps above %d",
            steps,
        )


def _fit(run: Run) -> dict[str, float]:
    """Trains. Returns the validation metrics of the last step, which are measured now if a resumed
    run had no step left."""
    trainer = run.trainer
    with warnings.catch_warnings():
        for hint in _LIGHTNING_HINTS:
            warnings.filterwarnings("ignore", hint)
        with reading_back(trainer), naming_compiled_code():
            trainer.fit(run.module, run.data, ckpt_path=run.checkpoint, weights_only=True)
        if not run.module.has_validated:
            trainer.validate(run.module, run.data, verbose=False)
    return {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith("val/")
    }


@rank_zero_only
def _record(summary: dict[str, Any], metrics: dict[str, float], run: Run) -> None:
    """Writes and prints. Of a finished run only the metrics are new."""
    if run.finished:
        summary |= {**read_summary(run.folder), **metrics}
    else:
        with goes_on_without("loss.png"):
            draw_loss_curve(run.folder, summary["name"])
        write_summary(summary, run.folder)
    asked_for = Path(HydraConfig.get().runtime.output_dir)
    if asked_for.is_dir() and asked_for != run.folder:  # the resumed job of a sweep
        write_summary(summary, asked_for)
    print_summary(summary, run.folder)
    tell_lost()
