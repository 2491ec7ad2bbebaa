"""A checkpoint outlives kills in its save: a few of those that are counted."""

from __future__ import annotations

from pathlib import Path

from forks import run

from . import saves


def test_a_kill_within_a_save_leaves_a_whole_checkpoint_and_nothing_else(tmp_path: Path) -> None:
    code, out = run(saves.main, 3, 0, cwd=tmp_path, timeout=240)
    assert code == 0, out
    assert "same file system: 3 of 3" in out
    assert out.count(": 3 of 3 (seed 0)") == len(saves.places()), out
