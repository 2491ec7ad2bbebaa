"""Of several starts with ``resume=auto`` one goes on: a trial of those that are counted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("starts.py")


def test_of_several_starts_at_once_one_goes_on_and_the_others_say_why() -> None:
    command = [sys.executable, str(SCRIPT), "--trials", "1", "--starts", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 starts at once: one went on in 1 of 1" in done.stdout
