"""How long a run takes to its first step is told and recorded."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from packformer.run.start_times import FIRST_STEP, StartTimes

_STAGES = ["imports", "rehearsal", "data", "model", "kernels", FIRST_STEP]


def test_the_first_step_is_told_once_and_its_stages_are_recorded(
    train: Callable, small: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    began = time.perf_counter()
    done = train("+experiment=gqa", *small, "trainer.max_steps=3", "trainer.rows_per_step=2")
    most = time.perf_counter() - began
    assert done.code == 0, done.err
    (line,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("start ")]
    assert re.match(rf"start +[\d.]+ s to the end of the first step: {_STAGES[0]} [\d.]+, ", line)
    (file,) = tmp_path.glob("runs/*/summary.json")
    summary = json.loads(file.read_text())
    assert list(summary["seconds_of_start"]) == _STAGES
    assert min(summary["seconds_of_start"].values()) >= 0
    total = summary["seconds_to_first_step"]
    assert total == pytest.approx(sum(summary["seconds_of_start"].values()))
    assert 0 < total < most


def test_stages_follow_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter((7.0, 7.5))
    monkeypatch.setattr("packformer.run.start_times.time.perf_counter", lambda: next(moments))
    times = StartTimes(2.0)
    times.ended("imports")
    assert times.total is None, "there was no first step yet"
    times.ended(FIRST_STEP)
    assert times.seconds == {"imports": 5.0, FIRST_STEP: 0.5}
    assert times.total == 5.5


def test_a_start_begins_with_its_process() -> None:
    code = (
        "import time; time.sleep(0.3); from packformer.run.start_times import process_began; "
        "print(time.perf_counter() - process_began())"
    )
    before = time.perf_counter()
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    least = 0.3 if sys.platform == "linux" else 0.0
    tick = 1 / os.sysconf("SC_CLK_TCK")  # the system rounds the start down to one
    assert least <= float(found.stdout) <= time.perf_counter() - before + tick
