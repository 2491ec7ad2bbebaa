"""Records that cannot be written end no run."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger

from packformer.run import train as of_run
from packformer.training.incomplete import forget_lost, goes_on_without, outlived, tell_lost


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "a file")


def test_a_logger_that_fails_is_told_once_and_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    forget_lost()
    logger = CSVLogger(tmp_path)
    logger.log_metrics = full  # type: ignore[method-assign]
    outlived(logger)
    for step in range(3):
        logger.log_metrics({"loss": 1.0}, step)
    tell_lost()
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "CSVLogger.log_metrics: [Errno 28] No space left on device: 'a file': training goes on",
        "records  incomplete: CSVLogger.log_metrics failed 3 times",
    ]
    forget_lost()


def test_an_error_in_code_is_raised() -> None:
    with pytest.raises(KeyError), goes_on_without("a logger"):
        raise KeyError("a bug")


def test_a_run_without_room_for_its_picture_and_samples_ends_well(
    train: Callable,
    small: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(of_run, "draw_loss_curve", full)
    opened = Path.open

    def no_samples(self: Path, *arguments: Any, **options: Any) -> Any:
        return full() if self.name == "samples.jsonl" else opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", no_samples)
    assert train(*small).code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert json.loads((folder / "summary.json").read_text())["steps"] == 4
    for name in ("loss.png", "samples.jsonl"):
        assert f"records  incomplete: {name} failed" in caplog.text
