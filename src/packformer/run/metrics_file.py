"""``metrics.csv``: one row per step and kind, of which neither a kill nor a full disk takes any."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from packformer.training.checkpoint import recorded_steps
from packformer.whole_file import cannot_write, replace_text

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.csv"


class _Writer(ExperimentWriter):
    """Lightning's deletes the file of the run that it resumes, and truncates it to add columns."""

    def __init__(self, folder: Path, columns: Sequence[str]) -> None:
        super().__init__(log_dir=str(folder))
        self.metrics_keys = list(columns)
        self._waits = False

    def _check_log_dir_exists(self) -> None:
        """Keeps what is there."""

    def save(self) -> None:
        """Appends the rows; keeps them for the next time if they cannot be written."""
        try:
            if self.metrics:
                self._append(Path(self.metrics_file_path))
        except OSError as error:
            if not self._waits:
                log.warning("%s: its rows wait for room", error)
            self._waits = True
            return
        self._waits = False
        self.metrics = []

    def _append(self, file: Path) -> None:
        columns = sorted({*self.metrics_keys, *(name for row in self.metrics for name in row)})
        if columns != self.metrics_keys or not file.exists():
            former = _rows(file) if file.exists() else []
            _write(file, columns, [*former, *self.metrics])
            self.metrics_keys = columns
            return
        before = file.stat().st_size
        try:
            with file.open("a", newline="", encoding="utf-8") as stream:
                csv.DictWriter(stream, fieldnames=columns).writerows(self.metrics)
        except OSError as error:
            os.truncate(file, before)  # of half a row
            raise cannot_write(file, error) from error


class _Logger(CSVLogger):
    """Of a run's folder; continues the file that is there."""

    def __init__(self, folder: Path, columns: Sequence[str]) -> None:
        super().__init__(save_dir=folder, name="", version="", flush_logs_every_n_steps=1)
        self._experiment = _Writer(folder, columns)


def csv_logger(folder: Path, checkpoint: Path | None) -> CSVLogger:
    """Logger of ``metrics.csv``; on a resume it keeps the rows that the checkpoint knows of.

    Later rows are dropped, because those steps are run again; so is a validation that the
    checkpoint was saved before.
    """
    file = folder / METRICS_FILE
    kept: list[dict[str, str]] = []
    if checkpoint is not None and file.is_file():
        recorded = recorded_steps(checkpoint)
        kept = [r for r in _rows(file) if int(r["step"]) <= recorded[bool(r.get("val/loss"))]]
    columns = list(kept[0]) if kept else []
    if kept:
        _write(file, columns, kept)
    else:
        file.unlink(missing_ok=True)
    return _Logger(folder, columns)


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Rows of ``metrics.csv``, absent values left out."""
    file = folder / METRICS_FILE
    if not file.is_file():
        return []
    return [{k: float(v) for k, v in row.items() if v} for row in _rows(file)]


def _rows(file: Path) -> list[dict[str, str]]:
    """Those that were written to their end; a killed run may leave half of one."""
    text = file.read_bytes().decode()
    whole = StringIO(text[: text.rfind("\n") + 1], newline="")
    return [row for row in csv.DictReader(whole) if _is_whole(row)]


def _is_whole(row: dict[str, Any]) -> bool:
    return None not in row and None not in row.values() and row.get("step", "").isdecimal()


def _write(file: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    text = StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(columns))
    writer.writeheader()
    writer.writerows(rows)
    replace_text(file, text.getvalue())
