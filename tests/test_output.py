"""An output that is gone, closed or full."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PRINTS = """
from packformer.output import outlive_output
outlive_output(end={end})
import os, sys
for number in range(20000):
    print("a line", number)
sys.stdout.flush()
os.write(2, b"went on")
"""
OPENS = """
from packformer.output import outlive_output
outlive_output()
with open("file", "w") as file:
    print("printed", flush=True)
    file.write("written")
"""


def shell(command: str, code: str, folder: Path, *, end: bool = False):
    (folder / "code.py").write_text(code.format(end=end))
    return subprocess.run(
        ["bash", "-c", command.format(python=f"{sys.executable} code.py")],
        cwd=folder,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(("end", "code", "told"), [(False, 0, "went on"), (True, 141, "")])
def test_who_reads_the_output_may_leave(tmp_path, end, code, told):
    done = shell("{python} | head -1; exit ${{PIPESTATUS[0]}}", PRINTS, tmp_path, end=end)
    assert (done.stdout, done.returncode, done.stderr) == ("a line 0\n", code, told)


@pytest.mark.parametrize(
    ("end", "code", "told"), [(False, 0, "went on"), (True, 1, "standard output")]
)
def test_the_output_may_not_fit_on_its_disk(tmp_path, end, code, told):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    done = shell("{python} > /dev/full", PRINTS, tmp_path, end=end)
    assert done.returncode == code
    assert told in done.stderr


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&-"])
def test_a_file_does_not_take_the_place_of_a_closed_output(tmp_path, closed):
    done = shell("{python} " + closed, OPENS, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "file").read_text() == "written"


def test_a_crash_in_native_code_shows_where(tmp_path):
    crash = "import ctypes, sys\nsys.argv[1:] = ['nonsense']\nfrom packformer import cli\n"
    crash += "cli._meant = lambda _: ctypes.string_at(0)\ncli.main()\n"
    done = shell("{python}", crash, tmp_path)
    assert done.returncode == -signal.SIGSEGV or done.returncode == 128 + signal.SIGSEGV
    assert "Segmentation fault" in done.stderr
    assert "in _main" in done.stderr
