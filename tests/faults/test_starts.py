"""Of several starts with ``resume=auto`` one goes on: a trial of those that are counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from forks import run
from spared import spare

from . import starts


def _one_trial() -> None:
    with pytest.MonkeyPatch.context() as patch:
        spare(patch)
        raise SystemExit(starts.main(1, 4, 0))


def test_of_several_starts_at_once_one_goes_on_and_the_others_say_why(tmp_path: Path) -> None:
    code, out = run(_one_trial, cwd=tmp_path, timeout=300)
    assert code == 0, out
    assert "4 starts at once: one went on in 1 of 1" in out
