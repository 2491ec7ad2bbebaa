"""A run with numbers that are not finite ends, whatever records and saves it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from packformer.training import TrainingModule

_NOTHING_RECORDS = ["callbacks.records=null", "callbacks.last_checkpoint=null"]


def _breaking(monkeypatch: pytest.MonkeyPatch, what: str, at_step: int) -> None:
    """Makes the loss, the gradients or a weight NaN in the step that begins after ``at_step``."""
    step, before = TrainingModule.training_step, TrainingModule.on_before_optimizer_step

    def training_step(module: Any, batch: Any, number: int) -> Any:
        due = module.trainer.global_step == at_step
        if due and what == "weight":
            module.model.norm.weight.data[0] = float("nan")
        loss = step(module, batch, number)
        return loss * float("nan") if due and what == "loss" else loss

    def on_before_optimizer_step(module: Any, optimizer: Any) -> None:
        before(module, optimizer)
        if module.trainer.global_step == at_step and what == "gradient":
            module.model.norm.weight.grad[0] = float("inf")

    monkeypatch.setattr(TrainingModule, "training_step", training_step)
    monkeypatch.setattr(TrainingModule, "on_before_optimizer_step", on_before_optimizer_step)


@pytest.mark.parametrize("settings", [[], _NOTHING_RECORDS], ids=["default", "nothing records"])
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("loss", "the norm of the gradient is nan at step 2"),
        ("gradient", "the norm of the gradient is inf at step 2"),
        ("weight", "the training loss is nan at step 2"),
    ],
)
def test_a_run_that_breaks_ends_at_the_next_look(
    train: Callable,
    small: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    message: str,
    settings: list[str],
) -> None:
    _breaking(monkeypatch, what, at_step=1)
    done = train(
        *small,
        *settings,
        "model.num_layers=1",
        "trainer.max_steps=9",
        "trainer.log_every_n_steps=2",
        "trainer.validate_every_n_steps=1",
    )
    assert done.code == 1
    # What breaks in the step before a validation is seen there first.
    assert message in done.err or "is nan at step 2" in done.err
    for file in tmp_path.glob("runs/*/checkpoints/*.ckpt"):
        saved = torch.load(file, weights_only=True)
        assert saved["global_step"] == 1
        assert all(value.isfinite().all() for value in saved["state_dict"].values())


def test_a_validation_that_is_not_finite_ends_the_run(
    train: Callable, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _breaking(monkeypatch, "gradient", at_step=1)
    seldom = ("trainer.log_every_n_steps=100", "trainer.validate_every_n_steps=3")
    done = train(*small, *_NOTHING_RECORDS, *seldom, "trainer.max_steps=9")
    assert done.code == 1
    assert "the validation loss is nan at step 3: lower optimizer.learning_rate" in done.err
    assert not list(tmp_path.glob("runs/*/checkpoints/*.ckpt"))


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
