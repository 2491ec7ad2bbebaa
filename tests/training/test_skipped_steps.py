"""What is told of skipped steps, where it cannot be written too."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from packformer.training.incomplete import forget_lost, tell_lost
from packformer.training.skipped_steps import number_of_document, tell_skipped
from packformer.training.step_guard import SkippedRow, SkippedStep

_ONE_RANK: Any = SimpleNamespace(world_size=1, is_global_zero=True)


def _skipped(step: int) -> SkippedStep:
    return SkippedStep(step, float("nan"), (SkippedRow(1, 2.5, ((7, 0), (8, 4))),))


def test_each_call_adds_its_rows(tmp_path: Path) -> None:
    file = tmp_path / "skipped.csv"
    for step in (3, 5):
        tell_skipped(_ONE_RANK, [_skipped(step)], file, number_of_document)
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["step"] for row in rows] == ["3", "5"]
    assert rows[0]["documents"] == "document 7; document 8 from token 4"


def test_a_file_that_cannot_be_written_ends_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    forget_lost()
    file = tmp_path / "no folder" / "skipped.csv"
    for step in (3, 5):
        tell_skipped(_ONE_RANK, [_skipped(step)], file, number_of_document)
    assert caplog.text.count("training goes on") == 1
    tell_lost()
    assert "incomplete: skipped.csv failed 2 times" in caplog.text
    forget_lost()
