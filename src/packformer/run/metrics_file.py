"""``metrics.csv``: one row per step and kind, of which neither a kill nor a full disk takes any."""

from __future__ import annotations

import csv
import logging
import os
import shutil
from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from packformer.counted import counted
from packformer.training.checkpoint import recorded_steps
from packformer.whole_file import cannot_write, replace_text, replacing

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
    checkpoint was saved before. Lines that are no rows are told, and kept in a file beside it. A
    file that holds no row is told.
    """
    file = folder / METRICS_FILE
    kept: list[dict[str, str]] = []
    if checkpoint is not None and file.is_file():
        recorded = recorded_steps(checkpoint)
        rows, num_damaged = _whole_and_damaged(file)
        if num_damaged:
            _keep_damaged(file, num_damaged)
        elif not rows:
            log.warning(
                "%s holds no row: what was recorded up to step %s is lost",
                *(file, f"{recorded[False]:,}"),
            )
        kept = [r for r in rows if int(r["step"]) <= recorded[bool(r.get("val/loss"))]]
    columns = list(kept[0]) if kept else []
    if kept:
        _write(file, columns, kept)
    else:
        file.unlink(missing_ok=True)
    return _Logger(folder, columns)


def _keep_damaged(file: Path, num_lines: int) -> None:
    with replacing(file.with_stem(f"{file.stem}-damaged")) as copy:
        shutil.copyfile(file, copy)
        log.warning(
            "%s is damaged: %s left out, and kept in %s-damaged%s",
            *(file, counted(num_lines, "line"), file.stem, file.suffix),
        )


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Rows of ``metrics.csv``, absent values left out."""
    file = folder / METRICS_FILE
    if not file.is_file():
        return []
    return [{k: float(v) for k, v in row.items() if v} for row in _rows(file)]


def _rows(file: Path) -> list[dict[str, str]]:
    """Those that are whole; a killed run may leave half of one."""
    return _whole_and_damaged(file)[0]


def _whole_and_damaged(file: Path) -> tuple[list[dict[str, str]], int]:
    """Rows, and the number of lines that are none.

    Empty lines do not count, nor does a row that was not written to its end: a kill leaves it. A
    header is written whole or not at all.
    """
    text = file.read_bytes().decode(errors="replace")
    ended = text[: text.rfind("\n") + 1]
    written = StringIO(ended if ended.strip() else text, newline="")
    lines = [line for line in written if line.strip()]
    columns = _values(lines[:1])
    # Each line by itself: a damaged one may open a quotation, which would swallow those after it.
    found = [_row(columns, line) for line in lines[1:]]
    rows = [row for row in found if row is not None]
    has_no_header = bool(lines) and "step" not in columns
    return rows, len(found) - len(rows) + has_no_header


def _row(columns: Sequence[str], line: str) -> dict[str, str] | None:
    values = _values([line])
    row = dict(zip(columns, values, strict=False))
    is_row = len(values) == len(columns) and row.get("step", "").isdecimal()
    return row if is_row and all(map(_is_number, values)) else None


def _values(lines: Iterable[str]) -> list[str]:
    """Of the first line; none if it cannot be read."""
    try:
        return next(csv.reader(lines), [])
    except csv.Error:  # a value of more than 131,072 characters
        return []


def _is_number(value: str) -> bool:
    try:
        float(value or "0")
    except ValueError:
        return False
    return True


def _write(file: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    text = StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(columns))
    writer.writeheader()
    writer.writerows(rows)
    replace_text(file, text.getvalue())
