"""Any logger of Lightning's records a run, beside ``metrics.csv``."""

from __future__ import annotations

import csv
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import Logger

_HAS_TENSORBOARD = bool(find_spec("tensorboardX") or find_spec("tensorboard"))
_HERE = "tests.run.test_loggers"


class Remembering(Logger):
    """A logger of the user's that keeps what it is told."""

    told: list[tuple[int, dict[str, float]]] = []
    settings: dict[str, Any] = {}

    def __init__(self, colour: str = "red") -> None:
        super().__init__()
        Remembering.told = []

    name, version = "remembering", "0"

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self.told.append((step, metrics))

    def log_hyperparams(self, params: Any, *arguments: Any, **options: Any) -> None:
        Remembering.settings = params


def _choose(tmp_path: Path, text: str) -> list[str]:
    """Overrides that choose the logger of a file of the user's."""
    folder = tmp_path / "conf" / "logger"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    return ["--config-dir", str(tmp_path / "conf"), "logger=mine"]


def _columns(file: Path) -> dict[str, list[str]]:
    with file.open() as stream:
        rows = list(csv.DictReader(stream))
    return {
        name: [row[name] for row in rows if row.get(name)]
        for name in ("step", "train/loss", "val/loss")
    }


@pytest.mark.parametrize(
    "text",
    [f"mine:\n  _target_: {_HERE}.Remembering\n  colour: blue", f"_target_: {_HERE}.Remembering"],
    ids=["by name", "alone"],
)
def test_a_logger_of_the_users_is_told_what_metrics_csv_is(
    train: Callable, small: list[str], tmp_path: Path, text: str
) -> None:
    done = train(*_choose(tmp_path, text), *small)
    assert done.code == 0, done.err
    (folder,) = (tmp_path / "runs").iterdir()
    columns = _columns(folder / "metrics.csv")
    assert [str(step) for step, _ in Remembering.told] == columns["step"]
    for name in ("train/loss", "val/loss"):
        assert [m[name] for _, m in Remembering.told if name in m] == [
            float(value) for value in columns[name]
        ]
    assert Remembering.settings["trainer"]["max_steps"] == 4
    assert not (folder / "wandb_run_id.txt").exists(), "the default gave way"


def test_one_that_takes_a_folder_lies_in_that_of_the_run(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    text = "second:\n  _target_: lightning.pytorch.loggers.CSVLogger\n  name: second"
    done = train(*_choose(tmp_path, text), *small)
    assert done.code == 0, done.err
    (folder,) = (tmp_path / "runs").iterdir()
    (second,) = folder.glob("second/*/metrics.csv")
    assert _columns(second) == _columns(folder / "metrics.csv")


@pytest.mark.skipif(not _HAS_TENSORBOARD, reason="needs tensorboard or tensorboardX")
def test_tensorboard_is_a_choice_and_several_record_at_once(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    overrides = [o for o in small if o != "+debug=fast"]
    short = ["trainer.max_steps=2", "trainer.log_every_n_steps=1", "packing.row_length=64"]
    done = train(*overrides, *short, "model.num_layers=1", "logger=[wandb,tensorboard]")
    assert done.code == 0, done.err
    (folder,) = (tmp_path / "runs").iterdir()
    (events,) = folder.glob("tensorboard/events*")
    written = events.read_bytes()
    assert b"train/loss" in written
    assert b"val/loss" in written
    assert (folder / "metrics.csv").is_file()
    assert (folder / "wandb_run_id.txt").is_file()
    resumed = train(
        *overrides,
        *short,
        "model.num_layers=1",
        "logger=tensorboard",
        f"resume={folder}",
        "trainer.max_steps=3",
    )
    assert resumed.code == 0, resumed.err
    assert len(list(folder.glob("tensorboard/events*"))) >= 2


def test_tensorboard_that_is_not_installed_is_one_line(
    train: Callable, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_TENSORBOARD_AVAILABLE", "_TENSORBOARDX_AVAILABLE"):
        monkeypatch.setattr(f"lightning.fabric.loggers.tensorboard.{name}", False)
    done = train(*small, "logger=tensorboard")
    assert done.code == 1
    assert "logger.tensorboard lacks a package" in done.err
    assert "pip install '.[tensorboard]'" in done.err
    assert len(done.err.splitlines()) == 1
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mine: 5", "logger.mine (5) must have a _target_"),
        ("mine: {project: x}", "must have a _target_"),
        ("mine:\n  _target_: torch.nn.Identity", "logger.mine (Identity) must be a logger"),
        (
            "mine:\n  _target_: torch.nn.Identity\n  _partial_: true",
            "logger.mine (Identity) must be a logger",
        ),
        (
            f"mine:\n  _target_: {_HERE}.Remembering\n  _partial_: true",
            "logger.mine (Remembering) with _partial_: true must take folder, name, group, config",
        ),
        (f"mine:\n  _target_: {_HERE}.Remembering\n  color: blue", "no setting logger.mine.color"),
        ("mine:\n  _target_: lightning.pytorch.loggers.TensorBordLogger", "logger.mine._target_"),
        (
            "mine:\n  _target_: lightning.pytorch.loggers.CSVLogger\n  save_dir: [1]",
            "logger.mine",
        ),
    ],
)
def test_what_is_no_logger_is_one_line(
    train: Callable, small: list[str], tmp_path: Path, text: str, message: str
) -> None:
    done = train(*_choose(tmp_path, text), *small)
    assert done.code == 1
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize("how", ["logger=csv", "logger.wandb=null", "~logger"])
def test_metrics_csv_stays_without_any_other(
    train: Callable, small: list[str], tmp_path: Path, how: str
) -> None:
    done = train(*small, how, "trainer.max_steps=1")
    assert done.code == 0, done.err
    assert len(list(tmp_path.glob("runs/*/metrics.csv"))) == 1
