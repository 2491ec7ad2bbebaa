"""The summary at the end of a run."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from packformer.bounded import read_json, wrong_number
from packformer.counted import counted
from packformer.data import PackedDataModule
from packformer.generation import KVCache
from packformer.model import GPT
from packformer.run.metrics_file import read_metrics
from packformer.run.resume import (
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    SKIPPED_FILE,
    SUMMARY_FILE,
    TOKENIZER_FILE,
)
from packformer.run.samples import SAMPLES_FILE
from packformer.run.start_times import StartTimes
from packformer.training import StepRecords, TrainingModule
from packformer.training.memory import peak_gpu_bytes, peak_process_bytes
from packformer.whole_file import replace_text


def summarize(
    trainer: L.Trainer,
    module: TrainingModule,
    metrics: dict[str, float],
    *,
    name: str,
    folder: Path,
    resumed_step: int | None,
    seconds: float,
    times: StartTimes,
) -> dict[str, Any]:
    """The numbers of a finished run, plain types only.

    Args:
        trainer: that ran it.
        module: that was trained.
        metrics: of the last validation.
        name: of the run.
        folder: of the run.
        resumed_step: after which it went on; None for a run from its beginning.
        seconds: it took since then.
        times: of its start.
    """
    records = next((c for c in trainer.callbacks if isinstance(c, StepRecords)), None)  # type: ignore[attr-defined]
    device = trainer.strategy.root_device
    return {
        "name": name,
        **metrics,
        "steps": trainer.global_step,
        "skipped_steps": module.step_guard.skipped_steps,
        "tokens_seen": records.tokens_seen if records else None,
        "flops": records.flops if records else None,
        "tokens_per_second": _rate(records, folder) if records else None,
        "fill": records.fill if records else None,
        "data_wait": records.data_wait if records else None,
        **(_of_ranks(records, trainer.world_size) if records and trainer.world_size > 1 else {}),
        "parameters": module.model.num_parameters(),
        **_cache(module.model),
        "peak_memory_bytes": peak_gpu_bytes(device) or peak_process_bytes(),
        "kernel": module.kernels.told,
        "device": str(device),
        **_data(trainer),
        "precision": str(trainer.precision),
        **_float8(module),
        "resumed_step": resumed_step,
        "seconds": seconds,
        "seconds_to_first_step": times.total,
        "seconds_of_start": times.seconds,
        "folder": str(folder),
    }


def _data(trainer: L.Trainer) -> dict[str, str]:
    """What was trained on, for whoever compares runs."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, PackedDataModule)
    return {"data": data.splits.description, "data_fingerprint": data.splits.fingerprint}


def _rate(records: StepRecords, folder: Path) -> float:
    """Tokens per second; of the steps before, if a resumed run had none left to do."""
    rate = records.tokens_per_second
    if not math.isnan(rate):
        return rate
    name = "train/tokens_per_second"
    recorded = [row[name] for row in read_metrics(folder) if name in row]
    return statistics.median(recorded[1:] or recorded or [math.nan])


def _float8(module: TrainingModule) -> dict[str, Any]:
    """Whether linear layers computed in float8, and the times of a block that were measured."""
    if module.float8 is None:
        return {"float8": False}
    times = module.block_times
    return {
        "float8": "emulate" if module.float8.emulate else True,
        "block_milliseconds": None if times is None else times.plain,
        "block_milliseconds_float8": None if times is None else times.float8,
    }


def _of_ranks(records: StepRecords, world_size: int) -> dict[str, float | None]:
    found = {
        "tokens_per_second_per_device": records.tokens_per_second / world_size,
        "rank_wait": records.rank_wait,
        "imbalance": records.imbalance,
    }
    return {name: None if math.isnan(value) else value for name, value in found.items()}


def _cache(model: GPT) -> dict[str, int | None]:
    """Bytes of bf16 keys and values that generation keeps of the longest document, measured.

    In all, and per token, rounded up; and the most that layers with a window keep together of any
    context, None if there are none.
    """
    longest = model.max_position
    bounds = [x.kv_cache_bytes(x.window) for x in model.layers if x.window is not None]
    total = KVCache(model, [longest], torch.bfloat16, torch.device("cpu")).num_bytes
    return {
        "kv_cache_bytes_per_token": -(-total // longest),
        "kv_cache_bytes": total,
        "kv_cache_context": longest,
        "kv_cache_bytes_of_windows": sum(bounds) if bounds else None,
    }


def write_summary(summary: dict[str, Any], folder: Path) -> None:
    """Writes ``summary.json``, which marks the run as finished."""
    finite = {k: None if v != v else v for k, v in summary.items()}  # JSON knows no NaN
    replace_text(folder / SUMMARY_FILE, json.dumps(finite, indent=2) + "\n")


def read_summary(folder: Path) -> dict[str, Any]:
    """What ``write_summary`` wrote; empty where it cannot be read.

    Raises:
        ValueError: if it has something else in place of a number.
    """
    try:
        found = read_json(folder / SUMMARY_FILE)
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    if wrong := wrong_number(found):
        raise ValueError(f"{folder / SUMMARY_FILE}: {wrong}: mend it, or remove the file")
    return found


def print_summary(summary: dict[str, Any], folder: Path) -> None:
    """Prints the summary as a table."""
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for label, key, form in (
        ("validation loss", "val/loss", "{:.4f} nats per token"),
        ("perplexity", "val/perplexity", "{:.2f}"),
        ("bits per byte", "val/bits_per_byte", "{:.4f}"),
        ("exact match", "val/exact_match", "{:.2%} of documents"),
        ("answers right", "val/answer_accuracy", "{:.2%}"),
        ("optimizer steps", "steps", "{:,}"),
        ("skipped steps", "skipped_steps", "{:,}"),
        ("tokens seen", "tokens_seen", "{:,}"),
        ("tokens/s", "tokens_per_second", "{:,.0f}"),
        ("tokens/s a device", "tokens_per_second_per_device", "{:,.0f}"),
        ("fill ratio", "fill", "{:.2%}"),
        ("waiting for data", "data_wait", "{:.2%} of the time"),
        ("waiting for ranks", "rank_wait", "{:.2%} of the time"),
        ("attention imbalance", "imbalance", "{:.3f}"),
        ("parameters", "parameters", "{:,}"),
    ):
        if summary.get(key) is not None:
            table.add_row(label, form.format(summary[key]))
        for name, value in summary.items():  # of the corpora of a mixture
            if name.startswith(f"{key}/") and value is not None:
                table.add_row(Text(f"  {name.removeprefix(key + '/')}"), form.format(value))
    table.add_row("KV cache", _cache_shown(summary))
    if summary["peak_memory_bytes"] is not None:
        table.add_row("peak memory", f"{summary['peak_memory_bytes'] / 2**30:.2f} GiB")
    table.add_row("attention", summary["kernel"])
    table.add_row(*_time_shown(summary))
    console = Console(highlight=False)
    # A table's title is broken at the table's width, within a word if need be.
    console.print(Text(f"{summary['name']}: finished", style="italic"), soft_wrap=True)
    console.print(table)
    console.print(f"run folder: {folder}", soft_wrap=True, markup=False)
    for file, what in _files(folder):
        console.print(f"  {file:<16} {what}", soft_wrap=True, markup=False)
    if not (folder / "metrics.csv").exists():
        console.print("  no metrics.csv, no loss.png: nothing was recorded (callbacks.records)")


def _time_shown(summary: dict[str, Any]) -> tuple[str, str]:
    step = summary.get("resumed_step")
    label = "time in all" if step is None else f"time since step {step:,}"
    return label, "{}:{:02d}".format(*divmod(round(summary["seconds"]), 60))


def _cache_shown(summary: dict[str, Any]) -> str:
    shown = (
        f"{summary['kv_cache_bytes_per_token']:,} bytes per token in bfloat16, "
        f"{summary['kv_cache_bytes']:,} for {counted(summary['kv_cache_context'], 'token')}"
    )
    bound = summary["kv_cache_bytes_of_windows"]
    return shown if bound is None else f"{shown}; layers with a window keep at most {bound:,}"


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _files(folder: Path) -> list[tuple[str, str]]:
    """The files of a finished run, with what each is."""
    checkpoints = sorted(file.name for file in folder.glob("checkpoints/*.ckpt"))
    listed = (
        (SUMMARY_FILE, "these figures"),
        ("loss.png", "loss curve"),
        ("metrics.csv", "metrics"),
        (SKIPPED_FILE, "skipped steps and their documents"),
        (SAMPLES_FILE, "what the model wrote"),
        ("checkpoints", _listed(checkpoints)),
        (TOKENIZER_FILE, "of its text"),
        (CONFIG_FILE, "resolved configuration"),
        (ENVIRONMENT_FILE, "versions, command, git revision"),
    )
    return [(file, what) for file, what in listed if (folder / file).exists()]
