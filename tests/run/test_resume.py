"""A run that was killed goes on as if it had not been."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from packformer.run.folder import write_records
from packformer.run.lock import is_running, lock_run

_LENGTH = ("trainer.max_steps=8", "trainer.validate_every_n_steps=3", "packing.row_length=128")


def _rows(output_dir: Path) -> list[dict[str, str]]:
    (file,) = output_dir.glob("*/metrics.csv")
    with file.open() as stream:
        return [
            {name: value for name, value in row.items() if name != "train/tokens_per_second"}
            for row in csv.DictReader(stream)
        ]


def _weights(output_dir: Path) -> dict[str, Any]:
    (file,) = output_dir.glob("*/checkpoints/last.ckpt")
    return torch.load(file, weights_only=True)["state_dict"]


def test_a_killed_run_goes_on_exactly(train: Callable, small: list[str], tmp_path: Path) -> None:
    whole = train("+experiment=gqa", *small, *_LENGTH, "output_dir=whole")
    assert whole.code == 0, whole.err
    command = [sys.executable, "-u", "-m", "train", "+experiment=gqa", *small, *_LENGTH]
    with subprocess.Popen(
        [*command, "output_dir=killed"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert any("step 5/8" in line for line in process.stdout)
        process.kill()
    resumed = train("+experiment=gqa", *small, *_LENGTH, "output_dir=killed", "resume=auto")
    assert resumed.code == 0, resumed.err
    assert len(list((tmp_path / "killed").iterdir())) == 1, "it goes on in its own folder"
    assert _rows(tmp_path / "killed") == _rows(tmp_path / "whole")
    killed, whole_weights = _weights(tmp_path / "killed"), _weights(tmp_path / "whole")
    assert killed.keys() == whole_weights.keys()
    for name, value in whole_weights.items():
        assert torch.equal(value, killed[name]), name


def test_auto_starts_anew_where_nothing_is_unfinished(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    for _ in range(2):
        assert train(*small, "resume=auto").code == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_a_finished_run_can_be_prolonged(train: Callable, small: list[str], tmp_path: Path) -> None:
    assert train(*small).code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    done = train(*small, f"resume={folder}", "trainer.max_steps=6")
    assert done.code == 0, done.err
    assert list((tmp_path / "runs").iterdir()) == [folder]
    assert [int(row["step"]) for row in _rows(tmp_path / "runs") if row["val/loss"]] == [2, 4, 6]
    assert (folder / "config-1.yaml").is_file(), "the former configuration is kept"
    refused = train(*small, f"resume={folder}", "optimizer.learning_rate=0.5")
    assert refused.code == 1
    assert "optimizer.learning_rate (0.002 -> 0.5) cannot change in a run that goes on" in (
        refused.err
    )
    assert not (folder / "config-2.yaml").exists()


def test_a_run_with_no_step_left_is_measured_again(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    assert train(*small).code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    done = train(*small, f"resume={folder}")
    assert done.code == 0, done.err
    assert "validation loss" in done.out


@pytest.mark.parametrize("damage", ["truncated", "foreign", "other model", "text"])
def test_a_checkpoint_that_does_not_fit_is_refused_and_kept(
    train: Callable, small: list[str], tmp_path: Path, damage: str
) -> None:
    assert train(*small).code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    good = folder / "checkpoints" / "last.ckpt"
    bad = tmp_path / "bad.ckpt"
    settings: list[str] = []
    message = "truncated, damaged or no checkpoint"
    if damage == "truncated":
        bad.write_bytes(good.read_bytes()[:-1000])
    elif damage == "text":
        bad.write_text("not a checkpoint")
    elif damage == "foreign":
        torch.save({"state_dict": {}}, bad)
        message = "was not written by packformer"
    else:
        bad, settings, message = good, ["model.width=128"], "is of another model"
    before = bad.read_bytes()
    done = train(*small, f"resume={bad}", *settings)
    assert done.code == 1
    assert message in done.err
    assert bad.read_bytes() == before
    assert list((tmp_path / "runs").iterdir()) == [folder]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_loses_no_step_and_says_how_to_go_on(
    train: Callable, small: list[str], tmp_path: Path, number: signal.Signals
) -> None:
    # Records every 7 steps: the run is stopped between two of them.
    settings = [
        *small,
        "scheduler=constant",
        "trainer.log_every_n_steps=7",
        "trainer.validate_every_n_steps=21",
    ]
    command = [sys.executable, "-u", "-m", "train", *settings, "trainer.max_steps=100000"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        assert any("step     14/" in line for line in process.stdout)
        process.send_signal(number)
        last_lines = process.stdout.read()
    (folder,) = (tmp_path / "runs").iterdir()
    assert process.returncode == 1, last_lines
    assert "interrupted: saving after this step" in last_lines
    assert f"interrupted: go on with resume={folder}" in last_lines
    step = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    end = f"trainer.max_steps={step + 9}"
    for how in (f"resume={folder}", "output_dir=whole"):
        done = train(*settings, end, how)
        assert done.code == 0, done.err
    assert _rows(tmp_path / "runs") == _rows(tmp_path / "whole")
    weights = _weights(tmp_path / "runs")
    for name, value in _weights(tmp_path / "whole").items():
        assert torch.equal(value, weights[name]), name


def test_a_run_that_is_going_on_is_left_alone(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    assert train(*small).code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    (folder / "summary.json").unlink()  # as if it had not finished
    with lock_run(folder):
        done = train(*small, f"resume={folder}")
        assert done.code == 1
        assert f"the run in {folder} is still going on in another process" in done.err
        assert is_running(folder)
        assert train(*small, "resume=auto").code == 0
    assert not is_running(folder)
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_a_prolonged_run_that_was_killed_is_unfinished_again(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    assert train(*small).code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    config = yaml.safe_load((folder / "config.yaml").read_text())
    write_records(folder, config)  # what a run that goes on does first
    assert (folder / "summary-1.json").is_file()
    assert (folder / "environment-1.json").is_file()
    assert train(*small, "resume=auto").code == 0
    assert list((tmp_path / "runs").iterdir()) == [folder]


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ("seed=1", "seed"),
        ("packing.lookahead=3", "lookahead"),
        ("data.validation_fraction=0.2", "data"),
        ("data.vocab_size=301", "data"),
    ],
)
def test_a_run_does_not_go_on_with_other_data(
    train: Callable, small: list[str], tmp_path: Path, setting: str, name: str
) -> None:
    assert train(*small, "model.vocab_size=320").code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    before = (folder / "config.yaml").read_bytes()
    done = train(*small, "model.vocab_size=320", f"resume={folder}", setting)
    assert done.code == 1
    assert f"last.ckpt was trained on other rows: {name} was" in done.err
    assert (folder / "config.yaml").read_bytes() == before
    assert not (folder / "config-1.yaml").exists()
