"""A run outlives faults at any of its changes of files."""

from __future__ import annotations

import re
from pathlib import Path
from shutil import rmtree

from forks import run

from packformer.command_line.errors import keep_traceback

from . import faults, run_folder


def test_start_save_resume_and_end_leave_a_whole_run_wherever_they_are_cut_off(
    tmp_path: Path,
) -> None:
    code, out = run(run_folder.main, 5, 0, cwd=tmp_path, timeout=240)
    assert code == 0, out
    told = re.findall(r"^(\w+): (\d+) faults, (\d+) killed, \d+ told, all whole$", out, re.M)
    assert [name for name, _, _ in told] == ["start", "save", "resume", "end"]
    assert all(int(faults) >= int(killed) >= 2 for _, faults, killed in told)


def test_a_traceback_is_whole_whatever_interrupts_it(tmp_path: Path) -> None:
    """And a full disk hides no error: it is told without the place of its traceback."""
    former, written = "of a former job", set()
    error = ValueError("something " * 3000)

    def work() -> None:
        keep_traceback(error, tmp_path / "job", None, in_sweep=True)

    def begin() -> None:
        rmtree(tmp_path / "job", ignore_errors=True)
        (tmp_path / "job").mkdir()
        (tmp_path / "job" / "error.txt").write_text(former)

    begin()
    listed = faults.operations(work, tmp_path)
    whole = (tmp_path / "job" / "error.txt").read_text()
    assert "something" in whole
    for operation, fault in faults.each(listed):
        begin()
        code = faults.end_of(work, tmp_path, operation, fault, room=100)
        written.add((tmp_path / "job" / "error.txt").read_text())
        assert code == 0 or fault is not faults.Fault.FULL_DISK
    assert written == {former, whole}
