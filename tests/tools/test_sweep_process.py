"""The sweep of a study."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path


def processes_of(folder: Path) -> list[str]:
    found = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True)
    return [line for line in found.stdout.splitlines() if f"{folder}/tree" in line]


def wait_until(true, seconds: float) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.1)


def test_it_ends_with_a_command_that_is_killed(small: list[str], tmp_path: Path) -> None:
    """It is in a session of its own, so that Ctrl-C reaches it once."""
    sweep = ["train", "-m", *small, "trainer.max_steps=100000", "logger=csv", "seed=0,1"]
    sweep.append(f"hydra.sweep.dir={tmp_path}/tree")
    code = f"from packformer.tools.sweep_process import run_sweep; run_sweep({sweep})"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: list(tmp_path.glob("tree/0_*")), 300)
            assert processes_of(tmp_path)
        finally:
            process.kill()
    wait_until(lambda: not processes_of(tmp_path), 5)
