"""One table of all jobs of a sweep."""

from __future__ import annotations

import csv
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from packformer.run.resume import SUMMARY_FILE

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


class SweepTable(Callback):
    """Keeps ``sweep.csv`` in the sweep's folder after every job, and prints it at the end."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if config.hydra.mode.name == "MULTIRUN":
            _write(Path(config.hydra.sweep.dir))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        _print(_write(folder), folder)


def write_failure(folder: Path, name: str, error: str) -> None:
    """Leaves the name and error of a failed job for the table."""
    text = json.dumps({"name": name, "error": error}, indent=2)
    (folder / FAILURE_FILE).write_text(text + "\n", encoding="utf-8")


def _summaries(folder: Path) -> list[dict[str, Any]]:
    """Of the jobs below ``folder``, in their order; failed ones have only a name."""
    jobs = [job for job in folder.iterdir() if job.is_dir() and job.name.split("_")[0].isdigit()]
    rows = []
    for job in sorted(jobs, key=lambda job: int(job.name.split("_")[0])):
        file = job / SUMMARY_FILE
        if not file.is_file():
            file = job / FAILURE_FILE
        summary = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        rows.append({"name": job.name, "folder": str(job), **summary, "job": job.name})
    return rows


def _write(folder: Path) -> list[dict[str, Any]]:
    rows = _summaries(folder)
    names = list(dict.fromkeys(name for row in rows for name in ["job", "name", *_COLUMNS, *row]))
    with (folder / _FILE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=names)
        writer.writeheader()
        writer.writerows(rows)
    return rows


def _print(rows: list[dict[str, Any]], folder: Path) -> None:
    shown = {key: how for key, how in _COLUMNS.items() if any(key in row for row in rows)}
    table = Table(title="sweep", title_justify="left")
    table.add_column("run", overflow="fold")
    for label, _ in shown.values():
        table.add_column(label, justify="right")
    for name, row in zip(_short_names(rows), rows, strict=True):
        cells = [form.format(row[key]) if key in row else "" for key, (_, form) in shown.items()]
        table.add_row(name if "val/loss" in row else f"{name} failed", *cells)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    console.print(table)
    console.print(f"  {folder / _FILE}", soft_wrap=True)


def _short_names(rows: list[dict[str, Any]]) -> list[str]:
    """The runs' names, without the overrides that all of them share and in few digits."""
    words = [row["name"].split() for row in rows]
    shared = set.intersection(*(set(w[1:]) for w in words)) if words else set()
    return [
        " ".join([w[0], *(_short_override(word) for word in w[1:] if word not in shared)])
        for w in words
    ]


def _short_override(override: str) -> str:
    """``optimizer.learning_rate=0.0030421683`` as ``learning_rate=0.003042``."""
    key, _, value = override.partition("=")
    with suppress(ValueError):  # what is no number is shown as it is
        value = f"{float(value):.4g}"
    return f"{key.rpartition('.')[2]}={value}"
