"""A run outlives faults at any of its changes of files."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("run_folder.py")


def test_start_save_resume_and_end_leave_a_whole_run_wherever_they_are_cut_off() -> None:
    command = [sys.executable, str(SCRIPT), "--every", "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    told = re.findall(
        r"^(\w+): (\d+) faults, (\d+) killed, \d+ told, all whole$", done.stdout, re.M
    )
    assert [name for name, _, _ in told] == ["start", "save", "resume", "end"]
    assert all(int(faults) >= int(killed) >= 2 for _, faults, killed in told)
