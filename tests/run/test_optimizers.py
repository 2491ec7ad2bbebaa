"""Any optimizer of torch, from a file of one ``_target_``: it trains, is clipped and resumed."""

from __future__ import annotations

import csv
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import fork_workers

from packformer.training import LastCheckpoint

_SETTINGS = {
    "sgd": "_target_: torch.optim.SGD\nlr: 0.1\nmomentum: 0.9\n",
    "adafactor": "_target_: torch.optim.Adafactor\n",
    "muon_of_torch": "_target_: torch.optim.Muon\n",
    "fused": "_target_: torch.optim.AdamW\nfused: true\n",
    "several": "_target_: packformer.training.muon\n",
}
_STOPPED_AT = 2


@pytest.fixture
def settings(small: list[str], tmp_path: Path) -> list[str]:
    """Overrides for short runs that may choose an optimizer of ``_SETTINGS``."""
    folder = tmp_path / "conf" / "optimizer"
    folder.mkdir(parents=True)
    for name, text in _SETTINGS.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    length = ["packing.row_length=64", "trainer.validate_every_n_steps=4", "model.num_layers=1"]
    return ["--config-dir", str(tmp_path / "conf"), *small, *length]


def _rows(folder: Path) -> list[dict[str, str]]:
    (file,) = folder.glob("*/metrics.csv")
    with file.open() as stream:
        return list(csv.DictReader(stream))


def _weights(folder: Path) -> dict[str, Any]:
    (file,) = folder.glob("*/checkpoints/last.ckpt")
    return torch.load(file, weights_only=True)["state_dict"]


@pytest.mark.parametrize("name", _SETTINGS)
def test_an_optimizer_of_torch_goes_on_bit_for_bit(
    train: Callable,
    settings: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    command = [*settings, f"optimizer={name}", "max_grad_norm=0.5"]
    whole = train(*command, "output_dir=whole")
    assert whole.code == 0, whole.err
    with pytest.MonkeyPatch.context() as patch:
        on_end = LastCheckpoint.on_train_batch_end

        def interrupted(self: Any, trainer: Any, *arguments: Any) -> None:
            self._asked = signal.SIGINT if trainer.global_step == _STOPPED_AT else 0
            on_end(self, trainer, *arguments)

        patch.setattr(LastCheckpoint, "on_train_batch_end", interrupted)
        assert train(*command, "output_dir=stopped").code == 130
    resumed = train(*command, "output_dir=stopped", "resume=auto")
    assert resumed.code == 0, resumed.err
    assert "resumed  after step 2" in caplog.text
    found, wanted = _weights(tmp_path / "stopped"), _weights(tmp_path / "whole")
    for key, value in wanted.items():
        assert torch.equal(value, found[key]), key
    for column in ("train/loss", "train/grad_norm", "train/learning_rate", "val/loss"):
        assert [r[column] for r in _rows(tmp_path / "stopped")] == [
            r[column] for r in _rows(tmp_path / "whole")
        ]


def test_several_optimizers_are_told_and_their_rates_recorded(
    train: Callable, settings: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "conf" / "optimizer" / "mine.yaml").write_text(
        "_target_: tests.run.test_optimizers.two_rates\n", encoding="utf-8"
    )
    done = train(*settings, "optimizer=mine", "scheduler=constant", "scheduler.warmup_steps=0")
    assert done.code == 0, done.err
    assert "optimize SGD of " in caplog.text
    rows = [row for row in _rows(tmp_path / "runs") if row["train/loss"]]
    for row in rows:
        assert float(row["train/learning_rate"]) == 0.1
        assert float(row["train/learning_rate_1"]) == 0.01
        assert "train/learning_rate_2" not in row, "a group of a rate that is recorded"


def two_rates(model: Any) -> list[torch.optim.Optimizer]:
    first, second, *rest = model.parameters()
    return [
        torch.optim.SGD([first], lr=0.1),
        torch.optim.AdamW([{"params": [second]}, {"params": rest, "lr": 0.1}], lr=0.01),
    ]


def of_parameters(params: Any, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [p]} for p in params], lr=lr)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("_target_: torch.optim.SGD\nlr: fast", "optimizer does not take its settings"),
        ("_target_: torch.optim.SGD\nrate: 1", "there is no setting optimizer.rate"),
        ("_target_: torch.optim.LBFGS", "optimizer (LBFGS) cannot train here"),
        ("_target_: torch.nn.Linear\nin_features: 3\nout_features: 4", "optimizer"),
        ("_target_: builtins.list", "optimizer"),
        (
            "_target_: tests.run.test_optimizers.of_parameters",
            "optimizer: an optimizer function is given the model, and takes model.parameters() "
            "from it ('GPT' object is not iterable)",
        ),
        ("_target_: torch.optim.Sgd", "torch.optim.Sgd"),
    ],
)
def test_what_is_no_optimizer_is_refused_before_anything_is_written(
    train: Callable, settings: list[str], tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "conf" / "optimizer" / "wrong.yaml").write_text(text, encoding="utf-8")
    done = train(*settings, "optimizer=wrong")
    assert done.code == 1
    assert message in done.err
    assert len([line for line in done.err.splitlines() if "rror" in line]) == 1
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize("launcher", [[], ["hydra/launcher=side_by_side", "hydra.launcher.jobs=1"]])
def test_a_search_path_finds_choices_as_a_folder_of_them_does(
    train: Callable,
    settings: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    launcher: list[str],
) -> None:
    fork_workers(monkeypatch)
    own = f'hydra.searchpath=["file://{tmp_path}/conf"]'
    sweep = ["-m", "hydra.sweep.dir=tree", *launcher] if launcher else ["hydra.run.dir=tree/run"]
    done = train(own, *settings[2:], f"optimizer={next(iter(_SETTINGS))}", *sweep)
    assert done.code == 0, done.err
    assert len(list(tmp_path.glob("tree/*/summary.json"))) == 1
