"""What is told of skipped steps, where it cannot be written too."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from packformer.training.incomplete import forget_lost, tell_lost
from packformer.training.skipped_steps import (
    forget_after,
    number_of_document,
    tell_skipped,
)
from packformer.training.step_guard import SkippedRow, SkippedStep
from packformer.whole_file import remove_unfinished

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


def test_steps_that_are_taken_again_are_forgotten_and_others_stay(tmp_path: Path) -> None:
    file = tmp_path / "skipped.csv"
    for step in (3, 5):
        tell_skipped(_ONE_RANK, [_skipped(step)], file, number_of_document)
    file.write_bytes(file.read_bytes().replace(b"document 7", b"document 7" * 20_000))
    whole = file.read_bytes()
    file.write_bytes(whole + b"\xff,half a line")
    forget_after(file, 3)
    assert file.read_bytes() == whole[: whole.index(b"5,gradient")]
    forget_after(file, 2)
    assert not file.exists()


def test_a_kill_leaves_what_the_next_start_removes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "skipped.csv"
    tell_skipped(_ONE_RANK, [_skipped(3)], file, number_of_document)
    whole = file.read_bytes()
    with monkeypatch.context() as patch:
        for call in ("replace", "unlink"):  # as if the process were gone
            patch.setattr(Path, call, _fail)
            patch.setattr(os, call, _fail)
        with pytest.raises(OSError, match=r"cannot write .*skipped\.csv"):
            forget_after(file, 3)
    assert file.read_bytes() == whole
    assert len(list(tmp_path.iterdir())) == 2
    remove_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == [file]


def _fail(*_: object, **__: object) -> None:
    raise OSError(5, "Input/output error")
