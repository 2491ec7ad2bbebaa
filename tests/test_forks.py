"""A function in a forked process ends as a script would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forks import Forked, run


def end(how: str) -> None:
    print(os.getcwd(), os.environ["HOW"], flush=True)
    if how == "told":
        sys.exit("it failed")
    if how == "raised":
        raise ValueError("wrong")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exited":
        sys.exit(3)
    if how == "waits":
        time.sleep(60)


@pytest.mark.parametrize(
    ("how", "code", "told"),
    [
        ("finished", 0, ""),
        ("exited", 3, ""),
        ("raised", 1, "ValueError: wrong"),
        ("told", 1, "it failed"),
        ("killed", -signal.SIGKILL, ""),
    ],
)
def test_it_ends_as_a_script(tmp_path: Path, how: str, code: int, told: str) -> None:
    found, out = run(end, how, cwd=tmp_path, env={"HOW": how}, timeout=30)
    assert found == code
    assert out.startswith(f"{tmp_path} {how}\n")
    assert told in out


def test_it_can_be_watched_and_signalled(tmp_path: Path) -> None:
    with Forked(end, "waits", cwd=tmp_path, env={"HOW": "waits"}) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{tmp_path} waits\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in process.stdout.read()
    assert process.returncode == process.poll() == 1
