"""Text is prepared whatever happens to the disk: some of the faults that are counted."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("preparing.py")


def test_a_full_disk_or_a_kill_leaves_what_the_same_command_completes() -> None:
    command = [sys.executable, str(SCRIPT), "--every", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    told = re.search(r"prepare: (\d+) of (\d+) faults left what", done.stdout)
    assert told is not None
    assert int(told[1]) == int(told[2]) >= 20
