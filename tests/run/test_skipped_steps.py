"""A run skips steps whose loss or gradient is not finite, tells of them, and goes on."""

from __future__ import annotations

import csv
import json
import math
import shlex
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from packformer.command_line.composition import compose
from packformer.run.added_settings import with_added_settings
from packformer.training import GuardSettings, LastCheckpoint, TrainingModule

from .conftest import rows_in, weights_in

NAN, INF = float("nan"), float("inf")


def plant(
    patch: pytest.MonkeyPatch, what: str, value: float, steps: Iterable[int], row: int = 0
) -> list[dict[str, Any]]:
    """Makes the loss of a row, or a gradient, ``value`` in some steps, numbered from 1.

    Returns:
        Weights and optimizer states after each step, filled as the run goes on.
    """
    loss, before = TrainingModule._eager_loss, TrainingModule.on_before_optimizer_step
    start, end = TrainingModule.on_train_batch_start, TrainingModule.on_train_batch_end
    after: list[dict[str, Any]] = []
    current = {}

    def on_start(module: Any, batch: Any, number: int) -> None:
        start(module, batch, number)
        current["row"] = number % module.trainer.accumulate_grad_batches

    def planted_loss(module: Any, *arguments: Any) -> Any:
        found = loss(module, *arguments)
        due = module.trainer.training and module.trainer.global_step + 1 in steps
        # Infinite, and its gradients are not: they must not reach the weights all the same.
        if not (due and what == "loss" and current["row"] == row):
            return found
        return found._replace(loss=found.loss + value, nats=found.nats + value)

    def planted_gradient(module: Any, optimizer: Any) -> None:
        before(module, optimizer)
        if module.trainer.global_step + 1 in steps and what == "gradient":
            module.model.norm.weight.grad[0] = value

    def on_end(module: Any, outputs: Any, batch: Any, number: int) -> None:
        end(module, outputs, batch, number)
        if module.trainer.global_step > len(after):
            state = module.trainer.optimizers[0].state_dict()["state"]
            tensors = {f"{n} {k}": v for n, s in state.items() for k, v in s.items()}
            tensors |= dict(module.model.named_parameters())
            after.append({k: v.detach().clone() for k, v in tensors.items()})

    patch.setattr(TrainingModule, "on_train_batch_start", on_start)
    patch.setattr(TrainingModule, "_eager_loss", planted_loss)
    patch.setattr(TrainingModule, "on_before_optimizer_step", planted_gradient)
    patch.setattr(TrainingModule, "on_train_batch_end", on_end)
    return after


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def skipped_in(folder: Path) -> list[dict[str, str]]:
    (file,) = folder.glob("*/skipped.csv")
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


SMALL = ("model.num_layers=1", "packing.row_length=64", "trainer.log_every_n_steps=3")
FUSED = ("optimizer=adamw", "+optimizer.fused=true")


@pytest.mark.parametrize(
    ("what", "value", "optimizer"),
    [
        ("loss", NAN, ("optimizer=adamw",)),
        ("loss", INF, ("optimizer=muon",)),
        ("loss", INF, FUSED),
        ("gradient", NAN, ("optimizer=muon",)),
        ("gradient", INF, FUSED),
        ("gradient", NAN, ("optimizer=adamw", "trainer.rows_per_step=2")),
    ],
)
def test_what_is_not_finite_reaches_neither_weights_nor_state(
    train: Callable,
    small: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    value: float,
    optimizer: tuple[str, ...],
) -> None:
    after = plant(monkeypatch, what, value, steps=[2])
    done = train(*small, *SMALL, *optimizer, "trainer.max_steps=4")
    assert done.code == 0, done.err
    assert len(after) == 4
    assert [same(a, b) for a, b in zip(after, after[1:], strict=False)] == [True, False, False]
    assert all(v.isfinite().all() for state in after for v in state.values())
    assert f"skipped  step 2: the {what} is {value} in " in caplog.text

    (folder,) = (tmp_path / "runs").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["steps"], summary["skipped_steps"]) == (4, 1)
    rows = [row for row in rows_in(tmp_path / "runs") if row["train/loss"]]
    assert [(row["step"], float(row["train/skipped_steps"])) for row in rows] == [
        ("3", 1),
        ("4", 1),
    ]
    assert all(math.isfinite(float(row["train/loss"])) for row in rows)
    assert {row["cause"] for row in skipped_in(tmp_path / "runs")} == {what}


def test_of_an_accumulation_the_row_with_the_loss_is_named_with_its_documents(
    train: Callable, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    step = TrainingModule.training_step
    after = plant(monkeypatch, "loss", NAN, steps=[2, 3], row=1)

    def training_step(module: Any, batch: Any, number: int) -> Any:
        seen.append((module.trainer.datamodule.splits.train, batch))
        return step(module, batch, number)

    monkeypatch.setattr(TrainingModule, "training_step", training_step)
    done = train(*small, *SMALL, "trainer.rows_per_step=3", "trainer.max_steps=4")
    assert done.code == 0, done.err
    assert same(after[0], after[1])
    assert same(after[0], after[2])
    assert not same(after[2], after[3])

    rows = skipped_in(tmp_path / "runs")
    assert [(r["step"], r["rank"], r["row"], r["loss"]) for r in rows] == [
        ("2", "0", "2", "nan"),
        ("3", "0", "2", "nan"),
    ]
    for row, (source, batch) in zip(rows, (seen[4], seen[7]), strict=True):
        names = row["documents"].split("; ")
        assert len(names) == len(batch.lengths)
        end = 0
        for name, (document, start), length in zip(names, batch.pieces, batch.lengths, strict=True):
            shard, _, number = name.partition(" document ")
            assert Path(shard).suffix == ".tokens"
            assert number == f"{document}" + (f" from token {start}" if start else "")
            tokens, _ = source.piece(document, start, length)
            assert batch.tokens[0, end : end + length].tolist() == tokens.tolist()
            end += length


def test_too_many_in_a_row_end_the_run_with_a_command_that_goes_on(
    train: Callable, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[str, bytes] = {}
    save = LastCheckpoint._save

    def keep(callback: Any, trainer: Any) -> None:
        save(callback, trainer)
        kept["last"] = callback.file.read_bytes()

    length = ("trainer.max_steps=9", "trainer.validate_every_n_steps=3")
    guard = ("optimizer.learning_rate=0.002", "guard.skips_in_a_row=3")
    with monkeypatch.context() as patch:
        plant(patch, "gradient", INF, steps=range(4, 100))
        patch.setattr(LastCheckpoint, "_save", keep)
        done = train(*small, *SMALL, *length, *guard)
    assert done.code == 1
    (folder,) = (tmp_path / "runs").iterdir()
    assert (
        "3 optimizer steps in a row were skipped, up to step 6 (guard.skips_in_a_row is 3): "
        "continue from the last checkpoint with `python -m train " in done.err
    )
    last = folder / "checkpoints" / "last.ckpt"
    assert last.read_bytes() == kept["last"]
    assert torch.load(last, weights_only=True)["global_step"] == 3
    assert [row["step"] for row in skipped_in(tmp_path / "runs")] == ["4", "5", "6"]

    _, command, _ = done.err.split("`")
    assert "optimizer.learning_rate=0.001" in command
    resumed = train(*shlex.split(command)[3:])
    assert resumed.code == 0, resumed.err
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["steps"], summary["skipped_steps"]) == (9, 0)
    assert not (folder / "skipped.csv").exists(), "these steps were taken again"


def test_without_a_checkpoint_a_run_begins_anew_with_a_lower_rate(
    train: Callable, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, "loss", NAN, steps=range(1, 100))
    seldom = ("trainer.max_steps=9", "trainer.validate_every_n_steps=9")
    done = train(*small, *SMALL, *seldom, "optimizer.learning_rate=0.002", "guard.skips_in_a_row=3")
    assert done.code == 1
    told = "no checkpoint was saved before: start anew with optimizer.learning_rate=0.001"
    assert told in done.err


def test_skips_that_end_by_themselves_end_no_run(
    train: Callable, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, "gradient", INF, steps=range(1, 5))
    seldom = ("trainer.log_every_n_steps=6", "trainer.validate_every_n_steps=6")
    length = ("trainer.max_steps=6", "guard.skips_in_a_row=4")
    assert train(*small, *SMALL, *seldom, *length).code == 0


SPIKES = ("guard.spike_sigma=6", "guard.spike_window=4")


def test_a_spike_is_skipped_if_asked(
    train: Callable,
    small: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    states = []
    for name, settings in (("off", ()), ("on", SPIKES)):
        with monkeypatch.context() as patch:
            states.append(plant(patch, "loss", 1e5, steps=[5]))
            length = ("trainer.max_steps=6", f"output_dir={name}")
            assert train(*small, *SMALL, *settings, *length).code == 0
    off, on = states
    assert not same(off[3], off[4])
    assert same(on[3], on[4])
    assert not same(on[4], on[5])
    assert "skipped  step 5: a spike, the norm of the gradient is " in caplog.text
    (row,) = skipped_in(tmp_path / "on")
    assert row["cause"] == "spike"
    assert float(row["loss"]) > 1e3


@pytest.mark.parametrize(
    ("optimizer", "value", "steps", "settings"),
    [
        ("adamw", NAN, [2, 5], ()),
        ("muon", NAN, [2, 5], ()),
        ("adamw", 1e5, [5], SPIKES),
    ],
    ids=["adamw", "muon", "spikes"],
)
@pytest.mark.parametrize("stopped_at", [1, 2, 4])
def test_a_resume_across_a_skip_is_exact(
    train: Callable,
    small: list[str],
    tmp_path: Path,
    optimizer: str,
    value: float,
    steps: list[int],
    settings: tuple[str, ...],
    stopped_at: int,
) -> None:
    settings = [*small, *SMALL, f"optimizer={optimizer}", "trainer.rows_per_step=2", *settings]
    settings += ["trainer.max_steps=6", "trainer.validate_every_n_steps=6"]
    with pytest.MonkeyPatch.context() as patch:
        plant(patch, "loss", value, steps, row=1)
        assert train(*settings, "output_dir=whole").code == 0
        with pytest.MonkeyPatch.context() as interrupting:
            on_end = LastCheckpoint.on_train_batch_end

            def interrupted(self: Any, trainer: Any, *arguments: Any) -> None:
                self._asked = signal.SIGINT if trainer.global_step == stopped_at else 0
                on_end(self, trainer, *arguments)

            interrupting.setattr(LastCheckpoint, "on_train_batch_end", interrupted)
            assert train(*settings, "output_dir=stopped").code == 130
        # As if it had been killed later: what it told of later steps is told again.
        (folder,) = (tmp_path / "stopped").iterdir()
        with (folder / "skipped.csv").open("a") as stream:
            stream.write('5,loss,nan,0,1,nan,document 0\n5,loss,nan,0,2,nan,"docu')
        assert train(*settings, "output_dir=stopped", "resume=auto").code == 0
    assert rows_in(tmp_path / "stopped") == rows_in(tmp_path / "whole")
    assert skipped_in(tmp_path / "stopped") == skipped_in(tmp_path / "whole")
    assert [row["step"] for row in skipped_in(tmp_path / "whole")][-1] == "5"
    assert same(weights_in(tmp_path / "stopped"), weights_in(tmp_path / "whole"))


def test_a_run_from_before_the_guard_had_its_defaults() -> None:
    defaults = {name: field.default for name, field in GuardSettings.__dataclass_fields__.items()}
    assert with_added_settings({})["guard"] == defaults
    assert compose([]).guard == defaults
