"""The batch file of docs/cluster.md trains, with a stand-in for SLURM's programs."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from forks import Forked
from spared import spare

import packformer.run.train  # noqa: F401  # what tasks import

PAGE = (Path(__file__).parents[1] / "docs" / "cluster.md").read_text(encoding="utf-8")
(BATCH_FILE,) = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
# Asks the test to start the tasks, and ends with the code that it is told.
_SRUN = """
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as test:
    test.connect("srun.socket")
    test.sendall(json.dumps([sys.argv[1:], dict(os.environ)]).encode() + b"\\n")
    sys.exit(int(test.makefile().readline()))
"""
_TASKS = 2
_SLOW_END = """
import time
import lightning as L


class SlowEnd(L.Callback):
    \"\"\"Rank 0 has more to do at the end than the others, as W&B's last upload.\"\"\"

    def on_exception(self, trainer, pl_module, exception) -> None:
        if trainer.global_rank == 0:
            time.sleep(3)
"""
_JOB = {
    "SLURM_JOB_ID": str(10_000 + os.getpid() % 50_000),  # Lightning's port is made of it
    "SLURM_JOB_NAME": "packformer",
    "SLURM_NNODES": "1",
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_CPUS_PER_TASK": "1",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "localhost",
}


class Job(NamedTuple):
    """How a job ended: the batch file's code, and what it and its tasks printed."""

    code: int
    printed: str


def be_a_task(arguments: list[str]) -> None:
    """``python -m train ARGUMENTS``."""
    sys.path.insert(0, "")
    sys.argv = ["train", *arguments]
    with pytest.MonkeyPatch.context() as patch:
        spare(patch)
        runpy.run_module("train", run_name="__main__")


@pytest.fixture
def batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs the file with these settings; ``srun`` starts two tasks of one node.

    The tasks are forked, so that they import nothing, and ``code_of`` waits for them.
    """
    monkeypatch.chdir(tmp_path)  # names of sockets must be short
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in (
        ("srun", f"#!{sys.executable} -SE\n{_SRUN}"),
        ("scontrol", f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol\n'),
    ):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)

    def srun(asked: socket.socket, printed: int, code_of: Callable[[list[Forked]], int]) -> None:
        connection, _ = asked.accept()
        with connection, connection.makefile("rw") as stream:
            command, env = json.loads(stream.readline())
            assert command[:4] == ["--kill-on-bad-exit=1", "python", "-m", "train"]
            ids = [{"SLURM_PROCID": str(n), "SLURM_LOCALID": str(n)} for n in range(_TASKS)]
            options = {"cwd": tmp_path, "output": printed}
            tasks = [Forked(be_a_task, command[4:], env={**env, **own}, **options) for own in ids]
            try:
                stream.write(f"{code_of(tasks)}\n")
            finally:
                for task in tasks:
                    task.kill()
                    task.wait()

    def run(code_of: Callable[[list[Forked]], int], settings: list[str]) -> Job:
        small = BATCH_FILE.replace("+experiment=gpt_1b", shlex.join(settings))
        assert small != BATCH_FILE
        (tmp_path / "train.sbatch").write_text(small)
        env = {**os.environ, **_JOB, "PATH": f"{programs}:{os.environ['PATH']}"}
        with socket.socket(socket.AF_UNIX) as asked, open("printed", "w+b") as printed:
            asked.bind("srun.socket")
            asked.listen()
            asked.settimeout(60)
            file = printed.fileno()
            with subprocess.Popen(
                ["bash", "train.sbatch"], env=env, stdout=file, stderr=file
            ) as job:
                srun(asked, file, code_of)
                code = job.wait(60)
            printed.seek(0)
            return Job(code, printed.read().decode())

    return run


def highest_code(tasks: list[Forked]) -> int:
    """What srun returns."""
    codes = [task.wait(120) for task in tasks]
    return max(128 - code if code < 0 else code for code in codes)


def code_at_the_time_limit(tasks: list[Forked]) -> int:
    """SIGUSR1 comes once the first step is recorded; ``--kill-on-bad-exit=1`` ends all others as
    soon as one task has failed."""
    end = time.monotonic() + 60
    while not list(Path("runs").glob("*/*/metrics.csv")):
        assert time.monotonic() < end
        time.sleep(0.05)
    for task in tasks:
        task.send_signal(signal.SIGUSR1)
    while all(task.poll() is None for task in tasks):
        assert time.monotonic() < end
        time.sleep(0.01)
    for task in tasks:
        task.send_signal(signal.SIGTERM)
    return highest_code(tasks)


def test_the_batch_file_trains_in_one_folder(batch, small: list[str], tmp_path: Path) -> None:
    less = ["packing.row_length=128", "trainer.max_steps=2", "callbacks.samples=null"]
    less += ["trainer.accelerator=cpu", "trainer.rows_per_step=2"]
    done = batch(highest_code, [*small, *less])
    assert done.code == 0, done.printed
    (folder,) = (tmp_path / "runs" / _JOB["SLURM_JOB_ID"]).iterdir()
    assert json.loads((folder / "summary.json").read_text())["steps"] == 2
    assert done.printed.count("validation loss") == 1
    assert "2 devices x 1 accumulated" in done.printed
    assert not (tmp_path / "scontrol").exists()


def test_at_the_time_limit_the_job_is_saved_and_requeued(
    batch, small: list[str], tmp_path: Path
) -> None:
    (tmp_path / "slow_end.py").write_text(_SLOW_END)
    less = ["packing.row_length=128", "trainer.max_steps=100000", "callbacks.samples=null"]
    less += ["trainer.accelerator=cpu", "trainer.rows_per_step=2", "trainer.log_every_n_steps=1"]
    less += ["trainer.validate_every_n_steps=100000"]
    slow = "+callbacks.end._target_=slow_end.SlowEnd"
    done = batch(code_at_the_time_limit, [*small, *less, slow])
    assert done.code == 138, done.printed
    (_,) = (tmp_path / "runs" / _JOB["SLURM_JOB_ID"]).glob("*/checkpoints/last.ckpt")
    assert (tmp_path / "scontrol").read_text() == f"requeue {_JOB['SLURM_JOB_ID']}\n"


@pytest.mark.parametrize(("code", "requeued"), [(138, True), (1, False), (143, False)])
def test_it_is_requeued_only_after_an_interruption(batch, tmp_path, code, requeued) -> None:
    done = batch(lambda tasks: code, ["+debug=fast"])
    assert done.code == code
    asked = tmp_path / "scontrol"
    assert asked.exists() == requeued
    assert not requeued or asked.read_text() == f"requeue {_JOB['SLURM_JOB_ID']}\n"
