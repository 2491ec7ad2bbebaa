"""What is not finite is not saved, and ends the run, whatever records and saves it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from packformer.training import TrainingModule

_NOTHING_RECORDS = ["callbacks.records=null", "callbacks.last_checkpoint=null"]


def _breaking(monkeypatch: pytest.MonkeyPatch, what: str, at_step: int) -> None:
    """Breaks a weight, or a number of the optimizer's, before the step after ``at_step``."""
    start = TrainingModule.on_train_batch_start

    def on_train_batch_start(module: Any, batch: Any, number: int) -> None:
        start(module, batch, number)
        if module.trainer.global_step == at_step:
            weight = module.model.norm.weight
            states = module.trainer.optimizers[0].state
            broken = weight.data if what == "weights" else states[weight]["exp_avg_sq"]
            broken[0] = float("nan" if what == "weights" else "inf")

    monkeypatch.setattr(TrainingModule, "on_train_batch_start", on_train_batch_start)


@pytest.mark.parametrize("settings", [[], _NOTHING_RECORDS], ids=["default", "nothing records"])
def test_broken_weights_end_the_run_at_its_validation(
    train: Callable,
    small: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: list[str],
) -> None:
    _breaking(monkeypatch, "weights", at_step=1)
    length = ("trainer.max_steps=9", "trainer.validate_every_n_steps=1")
    done = train(*small, *settings, "model.num_layers=1", *length)
    assert done.code == 1
    assert "the validation loss is nan at step 2: " in done.err
    for file in tmp_path.glob("runs/*/checkpoints/*.ckpt"):
        saved = torch.load(file, weights_only=True)
        assert saved["global_step"] == 1
        assert all(value.isfinite().all() for value in saved["state_dict"].values())


@pytest.mark.parametrize("what", ["weights", "optimizer's numbers"])
def test_what_is_not_finite_is_not_saved(
    train: Callable, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    _breaking(monkeypatch, what, at_step=3)
    every_step = "callbacks.last_checkpoint.every_minutes=1e-9"
    length = ("trainer.max_steps=9", "trainer.validate_every_n_steps=9")
    done = train(*small, "model.num_layers=1", every_step, *length)
    assert done.code == 1
    assert f"the {what} at step 4 are not finite, so they are not saved: continue from" in done.err
    (file,) = tmp_path.glob("runs/*/checkpoints/last.ckpt")
    assert torch.load(file, weights_only=True)["global_step"] == 3


@pytest.mark.parametrize("settings", [[], _NOTHING_RECORDS], ids=["last", "best alone"])
def test_after_a_validation_that_is_not_finite_the_command_goes_on(
    train: Callable, small: list[str], tmp_path: Path, settings: list[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _breaking(patch, "weights", at_step=3)
        length = ("trainer.max_steps=6", "trainer.validate_every_n_steps=2")
        rate = "optimizer.learning_rate=0.002"
        done = train(*small, *settings, "model.num_layers=1", *length, rate)
    assert done.code == 1
    told = "the validation loss is nan at step 4: continue from the last checkpoint with `python -m"
    assert told in done.err
    _, command, _ = done.err.split("`")
    assert "optimizer.learning_rate=0.001" in command
    resumed = train(*shlex.split(command)[3:])
    assert resumed.code == 0, resumed.err
    (file,) = tmp_path.glob("runs/*/summary.json")
    assert json.loads(file.read_text())["steps"] == 6


def test_a_first_validation_that_is_not_finite_leaves_nothing_to_continue_from(
    train: Callable, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _breaking(monkeypatch, "weights", at_step=1)
    length = ("trainer.max_steps=6", "trainer.validate_every_n_steps=2")
    done = train(*small, "model.num_layers=1", *length, "optimizer.learning_rate=0.002")
    assert done.code == 1
    told = "nan at step 2: no checkpoint was saved before: start anew with optimizer.learning_rate="
    assert f"{told}0.001" in done.err


def test_without_records_a_run_says_so_and_goes_on_exactly(
    train: Callable, small: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    losses = {}
    for name in ("with", "without"):
        left_out = ["callbacks.records=null"] if name == "without" else []
        done = train(*small, *left_out, f"output_dir={name}")
        assert done.code == 0, done.err
        (folder,) = (tmp_path / name).iterdir()
        losses[name] = json.loads((folder / "summary.json").read_text())["val/loss"]
        told = "without  callbacks.records: no metrics are recorded: no metrics.csv, no loss curve"
        assert (told in caplog.text) == (name == "without")
    assert losses["with"] == losses["without"]
    assert not (folder / "metrics.csv").exists()
    assert not (folder / "loss.png").exists()
    assert "step 4/4  loss" in caplog.text.split("without  callbacks.records")[1]
