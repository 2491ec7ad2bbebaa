"""z-loss: recorded beside the loss, and a setting that a resumed run may change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import INTERRUPTED, assert_equal_weights, rows_in, stopped_after

_RUN = ("trainer.max_steps=4", "trainer.log_every_n_steps=2", "trainer.validate_every_n_steps=4")


@pytest.fixture
def command(small: list[str]) -> list[str]:
    return [*small, *_RUN, "packing.row_length=64", "model.num_layers=1"]


def _recorded(folder: Path, name: str) -> list[str]:
    return [row[name] for row in rows_in(folder) if row["train/loss"]]


def test_a_stopped_run_goes_on_bit_for_bit(
    train: Callable, command: list[str], tmp_path: Path
) -> None:
    """From between two records: what was added up until then is part of the checkpoint."""
    assert train(*command, "z_loss=0.01", "output_dir=whole").code == 0
    with stopped_after(3):
        assert train(*command, "z_loss=0.01", "output_dir=stopped").code == INTERRUPTED
    resumed = train(*command, "z_loss=0.01", "output_dir=stopped", "resume=auto")
    assert resumed.code == 0, resumed.err
    assert_equal_weights(tmp_path / "stopped", tmp_path / "whole")
    assert rows_in(tmp_path / "stopped") == rows_in(tmp_path / "whole")
    for recorded in _recorded(tmp_path / "whole", "train/z_loss"):
        assert 0.3 < float(recorded) < 3, "0.01 log(V)^2, of 5 nats or more"


def test_a_resumed_run_may_begin_and_end_it(
    train: Callable, command: list[str], tmp_path: Path
) -> None:
    assert train(*command, "trainer.max_steps=2").code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    for steps, setting in ((4, "z_loss=1e-4"), (6, "z_loss=null")):
        done = train(f"resume={folder}", setting, f"trainer.max_steps={steps}")
        assert done.code == 0, done.err
    none, some, again = _recorded(tmp_path / "runs", "train/z_loss")
    assert (none, again) == ("", "")
    assert float(some) > 0
