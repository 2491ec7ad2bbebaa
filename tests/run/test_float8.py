"""A run in float8, from its start to what is done with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

import packformer
from packformer.training.checkpoint import read_weights

EMULATED = "trainer.float8=emulate"


def of_run(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_a_run_in_float8_differs_from_one_without_in_what_it_computes_alone(
    train: Callable, small: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, setting in (("plain", "false"), ("float8", "emulate")):
        done = train(*small, f"trainer.float8={setting}", f"hydra.run.dir={name}")
        assert done.code == 0, done.err
    told = [r.message for r in caplog.records if r.message.startswith("float8")]
    assert told == ["float8   8 of 8 linear layers, emulated in float32"]
    plain, float8 = tmp_path / "plain", tmp_path / "float8"
    assert of_run(float8)["val/loss"] == pytest.approx(of_run(plain)["val/loss"], rel=5e-3)
    assert of_run(float8)["val/loss"] != of_run(plain)["val/loss"]
    assert of_run(float8)["float8"] == "emulate"
    assert of_run(plain)["float8"] is False
    assert yaml.safe_load((float8 / "config.yaml").read_text())["trainer"]["float8"] == "emulate"
    weights, others = (
        read_weights(folder / "checkpoints" / "last.ckpt") for folder in (plain, float8)
    )
    assert list(weights) == list(others)
    assert all(type(tensor) is torch.Tensor for tensor in others.values())
    assert (float8 / "samples.jsonl").is_file(), "it writes while it is trained"
    model, _ = packformer.load(float8)
    assert {type(m) for m in model.modules() if isinstance(m, torch.nn.Linear)} == {torch.nn.Linear}


@pytest.mark.parametrize("settings", [(EMULATED, "trainer.float8=false")])
def test_either_goes_on_from_the_checkpoint_of_the_other(
    train: Callable,
    small: list[str],
    caplog: pytest.LogCaptureFixture,
    settings: tuple[str, str],
) -> None:
    for number, (first, then) in enumerate((settings, settings[::-1])):
        folder = f"run{number}"
        assert train(*small, first, f"hydra.run.dir={folder}").code == 0
        done = train(*small, then, f"resume={folder}", "trainer.max_steps=6")
        assert done.code == 0, done.err
        former, new = (s.partition("=")[2] for s in (first, then))
        assert f"changed  trainer.float8: {former} -> {new}" in caplog.text
        assert of_run(Path(folder))["steps"] == 6


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["trainer.float8=true"],
            "trainer.float8 (true) needs a GPU of compute capability 8.9 or newer",
        ),
        (
            [EMULATED, "packing.row_length=200"],
            "packing.row_length (200) must be divisible by 16 for trainer.float8: 192 is",
        ),
        (
            [EMULATED, "attention=mha", "model.width=24", "model.hidden_width=24"],
            "no linear layer of the blocks has sizes divisible by 16",
        ),
    ],
)
def test_what_cannot_run_leaves_nothing_behind(
    train: Callable, small: list[str], tmp_path: Path, overrides: list[str], message: str
) -> None:
    done = train(*small, "trainer.accelerator=cpu", *overrides)
    assert done.code == 1
    assert message in done.err
    assert done.err.count("\n") == 1
    assert not list(tmp_path.glob("runs/*"))
