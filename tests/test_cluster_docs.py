"""The batch file of docs/cluster.md trains, with a stand-in for SLURM's programs."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "cluster.md").read_text(encoding="utf-8")
(BATCH_FILE,) = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
# Starts two tasks of one node as srun does; ends with the highest of their codes.
_SRUN = """
import os, subprocess, sys
command = [word for word in sys.argv[1:] if not word.startswith("--kill-on-bad-exit")]
tasks = [
    subprocess.Popen(command, env={**os.environ, "SLURM_PROCID": str(n), "SLURM_LOCALID": str(n)})
    for n in range(2)
]
sys.exit(max(task.wait() for task in tasks))
"""
# Sends SIGUSR1 once the first step is recorded; ends the other task as soon as one has failed, as
# --kill-on-bad-exit=1 has it.
_AT_THE_TIME_LIMIT = """
import os, pathlib, signal, subprocess, sys, time
tasks = [
    subprocess.Popen(
        sys.argv[2:], env={**os.environ, "SLURM_PROCID": str(n), "SLURM_LOCALID": str(n)}
    )
    for n in range(2)
]
while not list(pathlib.Path("runs").glob("*/*/metrics.csv")):
    time.sleep(0.1)
for task in tasks:
    task.send_signal(signal.SIGUSR1)
while all(task.poll() is None for task in tasks):
    time.sleep(0.01)
for task in tasks:
    if task.poll() is None:
        task.terminate()
codes = [task.wait() for task in tasks]
sys.exit(max(128 - code if code < 0 else code for code in codes))
"""
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


@pytest.fixture
def batch(tmp_path: Path):
    """Runs the file with ``srun``, which is Python's text, and these settings."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    programs = tmp_path / "programs"
    programs.mkdir()

    def program(name: str, text: str) -> None:
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)

    def run(srun: str, settings: list[str]) -> subprocess.CompletedProcess:
        program("srun", f"#!{sys.executable}\n{srun}")
        program("python", f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
        program("scontrol", f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol\n')
        small = BATCH_FILE.replace("+experiment=gpt_1b", shlex.join(settings))
        assert small != BATCH_FILE
        (tmp_path / "train.sbatch").write_text(small)
        return subprocess.run(
            ["bash", "train.sbatch"],
            cwd=tmp_path,
            env={**os.environ, **_JOB, "PATH": f"{programs}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def test_the_batch_file_trains_in_one_folder(batch, small: list[str], tmp_path: Path) -> None:
    less = ["packing.row_length=128", "trainer.max_steps=2", "callbacks.samples=null"]
    done = batch(_SRUN, [*small, *less, "trainer.accelerator=cpu", "trainer.rows_per_step=2"])
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs" / _JOB["SLURM_JOB_ID"]).iterdir()
    assert json.loads((folder / "summary.json").read_text())["steps"] == 2
    assert done.stdout.count("validation loss") == 1
    assert "2 devices x 1 accumulated" in done.stderr
    assert not (tmp_path / "scontrol").exists()


def test_at_the_time_limit_the_job_is_saved_and_requeued(
    batch, small: list[str], tmp_path: Path
) -> None:
    (tmp_path / "slow_end.py").write_text(_SLOW_END)
    less = ["packing.row_length=128", "trainer.max_steps=100000", "callbacks.samples=null"]
    less += ["trainer.accelerator=cpu", "trainer.rows_per_step=2", "trainer.log_every_n_steps=1"]
    less += ["trainer.validate_every_n_steps=100000"]
    done = batch(_AT_THE_TIME_LIMIT, [*small, *less, "+callbacks.end._target_=slow_end.SlowEnd"])
    assert done.returncode == 138, done.stderr
    (_,) = (tmp_path / "runs" / _JOB["SLURM_JOB_ID"]).glob("*/checkpoints/last.ckpt")
    assert (tmp_path / "scontrol").read_text() == f"requeue {_JOB['SLURM_JOB_ID']}\n"


@pytest.mark.parametrize(("code", "requeued"), [(138, True), (1, False), (143, False)])
def test_it_is_requeued_only_after_an_interruption(batch, tmp_path, code, requeued) -> None:
    done = batch(f"import sys\nsys.exit({code})", ["+debug=fast"])
    assert done.returncode == code
    asked = tmp_path / "scontrol"
    assert asked.exists() == requeued
    assert not requeued or asked.read_text() == f"requeue {_JOB['SLURM_JOB_ID']}\n"
