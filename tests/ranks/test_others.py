"""The ranks that rank 0 starts before it imports torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from packformer.ranks import others
from packformer.ranks.launched import ERRORS

WAITS = """
import os, sys, time
from packformer.ranks.others import rank_zero_first
for name in ("first", "second"):
    with rank_zero_first():
        made = os.path.exists(name)
        open(f"{name}-{os.environ['LOCAL_RANK']}", "w").write(f"{made} {os.environ.get('FOUND')}")
"""
OF_TWO = ("trainer.accelerator=cpu", "trainer.devices=2", "trainer.rows_per_step=2")


@pytest.mark.parametrize(
    ("devices", "accelerator", "cards", "number"),
    [
        (1, "auto", 4, 1),
        (2, "auto", 4, 2),
        (4, "gpu", 4, 4),
        (5, "gpu", 4, 1),  # refused later
        ("2", "auto", 4, 2),
        ("0,1,", "auto", 4, 2),
        ([0, 3], "cuda", 4, 2),
        ([], "cuda", 4, 1),
        ("auto", "auto", 4, 4),
        ("auto", "auto", 0, 1),
        (-1, "gpu", 3, 3),
        ("auto", "cpu", 4, 1),
        (2, "cpu", 4, 2),
        (2, "auto", 0, 2),
        (3, "cpu", 0, 1),  # more than processors
        (10**9, "cpu", 0, 1),
        (0, "cpu", 0, 1),
        (-2, "cpu", 0, 1),
        (True, "auto", 4, 1),
        (None, "auto", 4, 1),
        ("many", "auto", 4, 1),
    ],
)
def test_devices_are_counted_without_torch(
    devices: Any, accelerator: str, cards: int, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ",".join(str(n) for n in range(cards))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert others.devices_before_torch(devices, accelerator) == number


def test_the_others_wait_for_rank_zero_in_each_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(others, "_runs", 0)
    for name in (ERRORS, "FOUND", "MASTER_PORT", "MASTER_ADDR"):
        monkeypatch.setenv(name, "unset when the test ends")
        monkeypatch.delenv(name)
    found = others.Others([[sys.executable, "-c", WAITS]] * 2)
    monkeypatch.setattr(others, "_found", found)
    try:
        for name in ("first", "second"):
            with others.rank_zero_first():
                time.sleep(0.2)  # the others would be faster
                assert not list(tmp_path.glob(f"{name}-*"))
                (tmp_path / name).touch()
                os.environ["FOUND"] = name
            assert int(os.environ["MASTER_PORT"]) > 0
            for rank in (1, 2):
                file = tmp_path / f"{name}-{rank}"
                while not file.exists() or not file.read_text():
                    assert {process.poll() for process in found.processes} <= {None, 0}
                    time.sleep(0.01)
                assert file.read_text() == f"True {name}"
        assert [process.wait() for process in found.processes] == [0, 0]
    finally:
        others.forget_others()
    assert others._found is None
    assert ERRORS not in os.environ


def test_others_that_wait_are_ended_with_a_run_that_fails(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    """Their error is the same, and told once."""
    command = [sys.executable, "-m", "train", *small, *OF_TWO, "objective=val/none"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.count("error:") == 1
    assert "objective (val/none) must be one of" in done.stderr
    assert not _processes_with("objective=val/none")
    for _ in range(2):  # of one process, too
        done = train(*small, *OF_TWO, "objective=val/none")
        assert done.code == 1
        assert done.err.startswith("error: objective (val/none) must be one of")
    assert "PACKFORMER_PARENT" not in os.environ  # else this process would end as one of them


def test_the_command_starts_the_other_rank(small: list[str], tmp_path: Path) -> None:
    less = ("trainer.max_steps=1", "callbacks.samples=null", "hydra.run.dir=a run")
    command = [sys.executable, "-m", "train", *small, *OF_TWO, *less]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("validation loss") == 1
    assert json.loads((tmp_path / "a run" / "environment.json").read_text())
    assert json.loads((tmp_path / "a run" / "summary.json").read_text())["steps"] == 1


def _processes_with(argument: str) -> list[str]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if argument in file.read_text().split("\0"):
                found.append(file.parent.name)
        except OSError:
            continue
    return found


_HEARS_NOTHING = """if True:
    import signal, sys, time
    from packformer.interruption import Interrupted
    from packformer.ranks import others

    others._UNTIL_INTERRUPTED = 0.3

    def swallow(number, frame):  # as torch does while it connects the ranks
        Interrupted(number)

    signal.signal(signal.SIGTERM, swallow)
    rank = [sys.executable, "-c", "import sys; sys.exit(143)"]
    others.Others([rank]).begin_to_train()
    end = time.monotonic() + 60
    while time.monotonic() < end:
        time.sleep(0.1)
"""


def test_a_signal_to_another_rank_ends_rank_zero_though_it_hears_nothing() -> None:
    command = [sys.executable, "-c", _HEARS_NOTHING]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (143, "interrupted\n")


_LOSES_THE_CONNECTION = """
import sys

from packformer.ranks import ending, others

rank = [sys.executable, "-c", "import sys; sys.exit(143)"]
others.Others([rank]).begin_to_train()
ending.tell(RuntimeError("Connection closed by peer"), "of a collective")
"""


def test_a_signal_that_ended_another_rank_at_once_is_told_by_rank_zero() -> None:
    command = [sys.executable, "-c", _LOSES_THE_CONNECTION]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (143, "interrupted\n")


_PREPARES = """
import sys, time
from packformer.ranks import others
from packformer.ranks.ending import ends_when_interrupted

_, seconds, end = sys.argv
with ends_when_interrupted():
    other = others.Others([[sys.executable, "-c", f"import os, sys; {end}"]])
    other.processes[0].wait()
    try:
        time.sleep(float(seconds))
        print("prepared")
    finally:
        print("stopped")
        other.end()
"""


def _prepares(seconds: float, end: str) -> subprocess.CompletedProcess[str]:
    """Rank 0 prepares data for a while; rank 1 ends like this."""
    command = [sys.executable, "-c", _PREPARES, str(seconds), end]
    return subprocess.run(command, capture_output=True, text=True, timeout=50)


def test_a_rank_that_is_killed_before_training_ends_rank_zero_at_once() -> None:
    done = _prepares(60, "os.kill(os.getpid(), 9)")
    assert (done.returncode, done.stdout) == (1, "stopped\n")
    assert done.stderr.startswith("error: rank 1 was killed (SIGKILL): if the machine ran out")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("end", ["sys.exit(0)", "sys.exit(1)"])
def test_a_rank_that_refuses_its_settings_leaves_the_word_to_rank_zero(end: str) -> None:
    done = _prepares(1, end)
    assert (done.returncode, done.stdout, done.stderr) == (0, "prepared\nstopped\n", "")


_FORGETS = """
import sys, time
from packformer.ranks import others

others._EVERY = 0  # looks all the time
for _ in range(20):
    others._found = others.Others([[sys.executable, "-c", "import time; time.sleep(60)"]])
    others.forget_others()
time.sleep(0.5)
print("its own error")
"""


def test_ranks_that_rank_zero_ends_are_not_told_as_killed() -> None:
    command = [sys.executable, "-c", _FORGETS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (0, "its own error\n", "")
