"""What tests of ``packformer study`` share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from packformer.cli import main
from packformer.tools.study import study as module


@pytest.fixture
def refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Gives a command that must be refused in one line and leave nothing; returns the line."""
    monkeypatch.chdir(tmp_path)

    def give(*command: str) -> str:
        with pytest.raises(SystemExit):
            main([*command])
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert not list(Path().iterdir())
        return told

    return give


@pytest.fixture
def in_this_process(train, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Sweeps train in the process of the test; what each printed."""
    printed: list[str] = []

    def sweep(command: list[str]) -> int:
        done = train(*command[1:])
        printed.append(done.out)
        return done.code

    monkeypatch.setattr(module, "run_sweep", sweep)
    return printed
