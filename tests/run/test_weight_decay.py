"""Weight decay that changes over a run, and rates of parts: resumed exactly, or with others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from .conftest import INTERRUPTED, assert_equal_weights, rows_in, stopped_after

_SHAPE = ("packing.row_length=64", "model.num_layers=1", "trainer.validate_every_n_steps=4")
_RECIPE = ("optimizer=muon", "weight_decay_schedule=cosine", "optimizer.embedding_rate_factor=3")


def _column(folder: Path, name: str) -> list[float]:
    return [float(row[name]) for row in rows_in(folder) if row["train/loss"]]


def test_a_stopped_run_goes_on_bit_for_bit(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    command = [*small, *_SHAPE, *_RECIPE, "scheduler.warmup_steps=1"]
    assert train(*command, "output_dir=whole").code == 0
    with stopped_after(3):
        assert train(*command, "output_dir=stopped").code == INTERRUPTED
    resumed = train(*command, "output_dir=stopped", "resume=auto")
    assert resumed.code == 0, resumed.err
    assert_equal_weights(tmp_path / "stopped", tmp_path / "whole")
    assert rows_in(tmp_path / "stopped") == rows_in(tmp_path / "whole")
    decay = _column(tmp_path / "whole", "train/weight_decay")
    assert decay == pytest.approx([0.1, 0.1 * (0.5 + 0.125**0.5), 0.05, 0.1 * (0.5 - 0.125**0.5)])


def test_a_resumed_run_may_change_schedule_and_rates(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    command = [*small, *_SHAPE, "scheduler=constant", "scheduler.warmup_steps=0"]
    assert train(*command, "weight_decay_schedule=linear", "trainer.max_steps=2").code == 0
    (run,) = (tmp_path / "runs").iterdir()
    changes = ["weight_decay_schedule=constant", "optimizer.embedding_rate_factor=0.5"]
    done = train(f"resume={run}", "trainer.max_steps=3", *changes)
    assert done.code == 0, done.err
    done = train(f"resume={run}", "trainer.max_steps=4", "optimizer.weight_decay=0.2")
    assert done.code == 0, done.err
    runs = tmp_path / "runs"
    assert _column(runs, "train/weight_decay") == pytest.approx([0.1, 0.05, 0.1, 0.2])
    assert _column(runs, "train/learning_rate") == [0.002] * 4
    of_embedding = [row["train/learning_rate_2"] for row in rows_in(runs) if row["train/loss"]]
    assert of_embedding == ["", "", "0.001", "0.001"]
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    sizes = [len(group["params"]) for group in saved["optimizer_states"][0]["param_groups"]]
    assert sizes[2:] == [1]


def test_a_tied_head_has_no_rate_of_its_own(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    done = train(*small, "optimizer.head_rate_factor=2")
    assert done.code == 1
    assert "optimizer.head_rate_factor (2) needs model.tie_embeddings=false" in done.err
    assert not list((tmp_path / "runs").glob("*"))
