"""A checkpoint outlives kills in its save: a few of those that are counted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("saves.py")


def test_a_kill_within_a_save_leaves_a_whole_checkpoint_and_nothing_else() -> None:
    command = [sys.executable, str(SCRIPT), "--trials", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "same file system: 3 of 3" in done.stdout
