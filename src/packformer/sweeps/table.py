"""One table of all jobs of a sweep."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

from packformer.bounded import read_json, wrong_number
from packformer.masking import masked
from packformer.run.resume import SUMMARY_FILE
from packformer.settings import is_number
from packformer.sweeps.traces import begin, remember
from packformer.sweeps.unfinished import go_on_in, mark_ended, unfinished_sweep
from packformer.whole_file import replace_text

_FILE = "sweep.csv"
FAILURE_FILE = "failure.json"
_WIDTH = 110  # characters, where no terminal says how many
_COLUMNS = {
    "val/loss": ("val loss", "{:.4f}"),
    "val/bits_per_byte": ("bits/byte", "{:.4f}"),
    "val/exact_match": ("exact match", "{:.2%}"),
    "parameters": ("parameters", "{:,}"),
    "tokens_per_second": ("tokens/s", "{:,.0f}"),
    "kv_cache_bytes_per_token": ("KV bytes/token", "{:,}"),
}


names_of_jobs: dict[str, str] = {}
"""What the jobs of this sweep differ in, by folder; an earlier sweep may have told more or less."""


class SweepTable(Callback):
    """Keeps ``sweep.csv`` in the sweep's folder after every job, and prints it at the end."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        names_of_jobs.clear()
        if (former := unfinished_sweep(config)) is not None:
            go_on_in(former, config)
            print(f"resume=auto: the sweep in {former} goes on", flush=True)
        remember(Path(config.hydra.sweep.dir))

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if config.hydra.mode.name == "MULTIRUN":
            _write(Path(config.hydra.sweep.dir))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        begin()  # which launchers of others do not say
        folder = Path(config.hydra.sweep.dir)
        rows = _write(folder)
        _print(rows, folder)
        if not any(map(_state, rows)):
            mark_ended(folder)


def write_failure(folder: Path, name: str, error: str, overrides: Sequence[str] = ()) -> None:
    """Leaves the name, error and overrides of a failed job for the table and for reports."""
    told = {"name": masked(name), "error": masked(error), "overrides": [*map(masked, overrides)]}
    text = json.dumps(told, indent=2)
    replace_text(folder / FAILURE_FILE, text + "\n")


def _summaries(folder: Path) -> list[dict[str, Any]]:
    """Of the jobs below ``folder``, in their order; failed ones have only a name."""
    numbers = {
        job: int(number)
        for job in folder.iterdir()
        if job.is_dir() and (number := job.name.partition("_")[0]).isdecimal()
    }
    rows = []
    for job in sorted(numbers, key=lambda job: (numbers[job], job.name)):
        file = job / SUMMARY_FILE
        if not file.is_file():
            file = job / FAILURE_FILE
        summary = _read(file)
        row = {"name": job.name, "folder": str(job), **summary, "job": job.name}
        rows.append(row | {"name": names_of_jobs.get(job.name, row["name"])})
    return rows


def _read(file: Path) -> dict[str, Any]:
    """Of a job; empty if it left nothing, or nothing that can be read."""
    try:
        found = read_json(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(folder: Path) -> list[dict[str, Any]]:
    rows = _summaries(folder)
    names = list(dict.fromkeys(name for row in rows for name in ["job", "name", *_COLUMNS, *row]))
    names = [name for name in names if name != "overrides"]
    table = StringIO(newline="")
    writer = csv.DictWriter(table, fieldnames=names, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    replace_text(folder / _FILE, table.getvalue())
    return rows


def _print(rows: list[dict[str, Any]], folder: Path) -> None:
    shown = {
        key: how for key, how in _COLUMNS.items() if any(row.get(key) is not None for row in rows)
    }
    table = Table(title="sweep", title_justify="left")
    table.add_column("run", overflow="fold")
    for label, _ in shown.values():
        table.add_column(label, justify="right")
    names = [row["name"] for row in rows]
    for row in rows:
        # Numbers have few digits in a name.
        name = row["name"] if names.count(row["name"]) == 1 else row["job"]
        cells = [_cell(row.get(key), form) for key, (_, form) in shown.items()]
        table.add_row(Text(f"{name}{_state(row)}"), *cells)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    console.print(table)
    console.print(f"  {folder / _FILE}", soft_wrap=True, markup=False)
    for row in rows:
        if wrong := wrong_number(row):
            file = folder / row["job"] / SUMMARY_FILE
            console.print(f"  {file}: {wrong}", soft_wrap=True, markup=False)


def _state(row: dict[str, Any]) -> str:
    if "val/loss" in row:
        return ""
    return " failed" if "error" in row else " unfinished"


def _cell(value: Any, form: str) -> str:
    return form.format(value) if is_number(value) else ""
