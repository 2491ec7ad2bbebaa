"""What a run left in its folder, as plain types."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from packformer.bounded import read_bounded, read_json, read_yaml, wrong_number
from packformer.files_below import files_below
from packformer.settings import is_number

CONFIG_FILE = "config.yaml"
SUMMARY_FILE = "summary.json"
FAILURE_FILE = "failure.json"
METRICS_FILE = "metrics.csv"
ENVIRONMENT_FILE = "environment.json"
POSITIONS_FILE = "loss_by_position.json"
"""The loss by position and by length of documents, which ``packformer study`` measures."""

_OBJECTS = (SUMMARY_FILE, FAILURE_FILE, ENVIRONMENT_FILE, POSITIONS_FILE)
_FRACTION = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?")
_LONGEST_NUMBER = 64  # characters
_MOST_METRICS = 2**30  # bytes
FINISHED, FAILED, UNFINISHED, DIVERGED = "finished", "failed", "unfinished", "diverged"
DAMAGED = "damaged"


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        folder: of the run.
        state: ``finished``; ``failed``; ``unfinished`` (stopped, or still running);
            ``diverged``: it ended, and its validation loss is not finite; or ``damaged``: its
            ``summary.json`` cannot be read or holds no numbers, so it is not known how it ended.
        error: of a failed or damaged run, one line.
        config: resolved settings; empty if the run failed before it began.
        overrides: what the command line gave.
        summary: of a finished run.
        environment: versions, command, revision.
        metrics: rows of ``metrics.csv``, values that are absent left out.
        positions: content of ``loss_by_position.json``; None if that was not measured.
        matched: how its variant was made as large as the reference; empty if it was not.
        tuned: which value its variant was given, and which were tried; empty if none were.
        damaged: names of its files that cannot be read; what they hold is missing.
    """

    folder: Path
    state: str
    error: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    metrics: tuple[Mapping[str, float], ...] = ()
    positions: Mapping[str, Any] | None = None
    matched: str = ""
    tuned: str = ""
    damaged: tuple[str, ...] = ()

    @property
    def seed(self) -> int | None:
        """Of weights and data order; None if it is not known."""
        given: Any = self.config.get("seed", given_by(self.overrides).get("seed"))
        try:
            return int(given)
        except (TypeError, ValueError):
            return None

    @property
    def given(self) -> dict[str, str]:
        """What the command line gave, by name: ``experiment``, ``trainer.max_steps``."""
        return given_by(self.overrides)

    def figure(self, name: str) -> float:
        """A number of the summary; NaN if it has none."""
        value: Any = self.summary.get(name)
        return float(value) if is_number(value) else math.nan

    @property
    def steps_done(self) -> int:
        """Optimizer steps that ``metrics.csv`` tells of."""
        return int(max((row.get("step", 0) for row in self.metrics), default=0))

    @property
    def steps_asked(self) -> int | None:
        """Optimizer steps that the run was to take."""
        trainer = self.config.get("trainer")
        steps = trainer.get("max_steps") if isinstance(trainer, Mapping) else None
        return steps if isinstance(steps, int) else None


def read_runs(folder: Path) -> list[Run]:
    """The runs in ``folder`` itself, or in folders below it, by number and name.

    Args:
        folder: of a sweep or study, of several of them, or of runs.

    Raises:
        ValueError: if there is no run.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: give that of a sweep or of runs")
    found = {
        file.parent for name in (CONFIG_FILE, FAILURE_FILE) for file in files_below(folder, name)
    }
    if not found:
        raise ValueError(
            f"{folder} holds no run: there is no {CONFIG_FILE} in it or below it; give the folder "
            "of a sweep (hydra.sweep.dir) or of runs"
        )
    return [read_run(one) for one in sorted(found, key=_order)]


def read_run(folder: Path) -> Run:
    """The run in ``folder``; of files that cannot be read, what they hold is missing.

    Raises:
        ValueError: if its ``config.yaml`` is damaged: the run cannot be told from others.
    """
    config = _config(folder / CONFIG_FILE)
    objects = {name: _object(folder / name) for name in _OBJECTS}
    if not _are_positions(objects[POSITIONS_FILE] or {}):
        objects[POSITIONS_FILE] = None
    wrong = wrong_number(objects[SUMMARY_FILE] or {})
    if wrong is not None:
        objects[SUMMARY_FILE] = None
    summary, failure = objects[SUMMARY_FILE], objects[FAILURE_FILE]
    metrics = _metrics(folder / METRICS_FILE, ended=bool(summary))
    found = {**objects, METRICS_FILE: metrics}
    damaged = tuple(name for name, content in found.items() if content is None)
    overrides = config.get("overrides") or (failure or {}).get("overrides") or ()
    error = ""
    if summary:
        diverged = "val/loss" in summary and not is_number(summary["val/loss"])
        state = DIVERGED if diverged else FINISHED
    elif summary is None:
        state, error = DAMAGED, cannot_be_read(folder, SUMMARY_FILE, wrong)
    elif failure is None:
        state, error = FAILED, cannot_be_read(folder, FAILURE_FILE)
    else:
        state, error = FAILED if failure else UNFINISHED, str(failure.get("error", ""))
    return Run(
        folder=folder,
        state=state,
        error=error,
        config=config,
        overrides=tuple(str(one) for one in overrides),
        summary=summary or {},
        environment=objects[ENVIRONMENT_FILE] or {},
        metrics=tuple(metrics or ()),
        positions=objects[POSITIONS_FILE] or None,
        damaged=damaged,
    )


def cannot_be_read(folder: Path, name: str, wrong: str | None = None) -> str:
    """Names a damaged file and its run, and what is wrong in it where that is known."""
    told = f"{name} of {folder.resolve().name} cannot be read"
    return told if wrong is None else f"{told} ({wrong})"


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def given_by(overrides: Sequence[str]) -> dict[str, str]:
    """Values of the overrides of a command line, by name; 1e-2 is 0.01, as a sweep writes it."""
    pairs = (override.lstrip("+~").partition("=") for override in overrides)
    return {name: _written(value) for name, _, value in pairs}


def _written(value: str) -> str:
    return str(float(value)) if _FRACTION.fullmatch(value) else value


def _order(folder: Path) -> tuple[str, float, str]:
    number = folder.name.partition("_")[0]  # a run that was added to a sweep has none
    return str(folder.parent), int(number) if number.isdecimal() else math.inf, folder.name


def _config(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    found = read_yaml(file)
    if not isinstance(found, dict):
        raise ValueError(f"{file} is no configuration of a run: remove its folder, or mend it")
    return found


def _object(file: Path) -> dict[str, Any] | None:
    """Empty of a file that is not there, None of one that cannot be read or holds nothing."""
    if not file.exists():
        return {}
    try:
        found = read_json(file)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found else None


def _are_positions(found: dict[str, Any]) -> bool:
    """Whether it is what a study measured of a run, or nothing."""
    return not found or (
        is_number(found.get("trained_length"))
        and _are_spans(found.get("by_position"))
        and _are_spans(found.get("by_length"))
    )


def _are_spans(found: Any) -> bool:
    return isinstance(found, list) and all(
        isinstance(span, dict) and is_number(span.get("last")) and is_number(span.get("loss"))
        for span in found
    )


def _metrics(file: Path, ended: bool) -> list[dict[str, float]] | None:
    """Rows; None if a line is none, of which the curve would have a wrong shape.

    Args:
        file: of the run; without it there is no row.
        ended: whether the run did: a killed one may leave half of its last row.
    """
    if not file.exists():
        return []
    try:
        text = read_bounded(file, _MOST_METRICS).decode("utf-8")
        whole = text[: text.rfind("\n") + 1]
        table = csv.reader(StringIO(whole, newline=""), strict=True)
        columns = next(table, [])
        if "step" not in columns or (ended and whole != text):
            return None
        rows = [_row(columns, values) for values in table]
    except (OSError, ValueError, csv.Error):
        return None
    return rows if all("step" in row for row in rows) else None


def _row(columns: Sequence[str], values: Sequence[str]) -> dict[str, float]:
    """Raises ``ValueError`` if there is another number of values, or one is no number."""
    if any(len(value) > _LONGEST_NUMBER for value in values):  # float() would call it infinite
        raise ValueError("a number of too many digits")
    return {name: float(value) for name, value in zip(columns, values, strict=True) if value}
