"""``resume=RUN``: the run's own settings, and changes on top."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from packformer.command_line.composition import compose
from packformer.run.naming import name_of
from packformer.run.summary import read_summary
from packformer.training import TrainingModule

from .conftest import (
    INTERRUPTED,
    assert_equal_weights,
    rows_in,
    rows_of,
    stopped_after,
    weights_in,
)

_SHAPE = ("packing.row_length=64", "model.num_layers=1", "callbacks.samples=null")


def _only(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


def _as_unfinished(folder: Path) -> None:
    (folder / "summary.json").unlink()


@pytest.fixture
def run(train: Callable, small: list[str], tmp_path: Path) -> Path:
    """The folder of a finished run of four steps, with settings of its own."""
    done = train(*small, *_SHAPE, "scheduler=constant", "seed=3", "model.width=32", "logger=csv")
    assert done.code == 0, done.err
    return _only(tmp_path / "runs")


def _settings(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "config.yaml").read_text())


def test_a_run_goes_on_without_repeating_anything(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    command = [*small, *_SHAPE, "seed=3", "model.width=32", "optimizer=muon", "name=mine"]
    assert train(*command, "output_dir=whole").code == 0
    with stopped_after(3):
        assert train(*command, "output_dir=stopped").code == INTERRUPTED
    folder = _only(tmp_path / "stopped")
    before = _settings(folder)
    done = train(f"resume={folder}")
    assert done.code == 0, done.err
    assert "time since step 3" in done.out
    assert "time in all" not in done.out
    command = [*before["overrides"], f"resume={folder}"]
    same = {"resume": str(folder), "output_dir": "runs", "overrides": command}
    assert _settings(folder) == before | same
    assert rows_of(folder) == rows_in(tmp_path / "whole")
    assert_equal_weights(tmp_path / "stopped", tmp_path / "whole")
    assert not list((tmp_path / "runs").glob("*"))


def test_changes_are_told_and_the_rest_is_the_runs(
    train: Callable, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = _settings(run)
    changes = {
        "optimizer.learning_rate": 1e-4,
        "optimizer.beta2": 0.99,
        "trainer.max_steps": 6,
        "trainer.rows_per_step": 2,
        "loader.num_workers": 0,
        "max_grad_norm": 0.5,
    }
    caplog.clear()
    done = train(
        f"resume={run}",
        *(f"{name}={value}" for name, value in changes.items()),
        "+callbacks.early._target_=lightning.pytorch.callbacks.EarlyStopping",
        "+callbacks.early.monitor=val/loss",
    )
    assert done.code == 0, done.err
    told = [line.split("changed  ")[1] for line in caplog.messages if "changed  " in line]
    assert "optimizer.learning_rate: 0.002 -> 0.0001" in told
    assert "optimizer.beta2: 0.95 -> 0.99" in told
    assert "scheduler.num_steps: 4 -> 6" in told, "it follows trainer.max_steps, as in the run"
    assert "trainer.rows_per_step: 1 -> 2" in told
    assert "max_grad_norm: 1.0 -> 0.5" in told
    assert "callbacks.early.monitor: absent -> val/loss" in told
    assert not [
        line for line in told if line.startswith(("seed", "loader", "model", "scheduler._"))
    ]
    after = _settings(run)
    assert after["scheduler"]["_target_"] == before["scheduler"]["_target_"]
    assert after["model"] == before["model"]
    assert after["loader"]["seed"] == 3


def test_what_weights_mean_does_not_change(train: Callable, run: Path) -> None:
    for override, told in {
        "model.width=64": "model.width: 32 in the run, 64 now",
        "optimizer=muon": "optimizer._target_: packformer.training.adamw in the run, packformer.tr",
        "position=alibi": "position._target_: packformer.nn.Rotary in the run, packformer.nn.ALiBi",
        "+experiment=mha": "attention.num_kv_heads: 2 in the run, null now",
        "data.vocab_size=301": "data.vocab_size: 300 in the run, 301 now",
    }.items():
        refused = train(f"resume={run}", "trainer.max_steps=6", override)
        assert refused.code == 1
        assert refused.err.count("\n") == 1
        assert told in refused.err


def test_a_repeated_choice_changes_nothing(train: Callable, small: list[str]) -> None:
    """Of a group or an experiment: its settings are the run's, which may have changed them."""
    done = train(*small, *_SHAPE, "+experiment=sliding_window", "attention.window=16", "seed=3")
    assert done.code == 0, done.err
    run = _only(Path("runs"))
    again = ["+experiment=sliding_window", "attention=gqa", "optimizer=adamw", f"resume={run}"]
    taken = compose([*again, "trainer.max_steps=6"])
    assert (taken.attention.window, taken.seed, taken.loader.seed) == (16, 3, 3)
    assert taken.trainer.max_steps == taken.scheduler.num_steps == 6
    assert compose([*again, "scheduler=constant"]).scheduler.warmup_steps == 40


def test_settings_of_the_runs_own_classes_can_be_given(train: Callable, small: list[str]) -> None:
    assert train(*small, *_SHAPE, "optimizer=muon", "trainer.max_steps=1").code == 0
    run = _only(Path("runs"))
    done = train(f"resume={run}", "optimizer.momentum=0.9", "trainer.max_steps=2")
    assert done.code == 0, done.err
    assert _settings(run)["optimizer"]["momentum"] == 0.9


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_first_resumed_step_has_the_new_rate(
    train: Callable, small: list[str], tmp_path: Path, optimizer: str
) -> None:
    command = [*small, *_SHAPE, f"optimizer={optimizer}", "scheduler=constant"]
    assert train(*command, "trainer.max_steps=2").code == 0
    run = _only(tmp_path / "runs")
    changes = ["optimizer.learning_rate=1e-5", "optimizer.weight_decay=0.3", "optimizer.beta1=0.8"]
    done = train(f"resume={run}", "trainer.max_steps=4", *changes)
    assert done.code == 0, done.err
    rates = [float(row["train/learning_rate"]) for row in rows_of(run) if row["train/loss"]]
    assert rates == pytest.approx([0.002 / 1, 0.002, 1e-5, 1e-5])
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    groups = saved["optimizer_states"][0]["param_groups"]
    assert {group["lr"] for group in groups} == {1e-5}
    assert {group["weight_decay"] for group in groups} == {0.3, 0.0}
    assert {group["betas"][0] for group in groups if "betas" in group} == {0.8}


def test_a_stable_phase_branches_into_a_decay(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    stable = ["scheduler=wsd", "scheduler.decay=0.5", "scheduler.warmup_steps=1"]
    assert (
        train(*small, *_SHAPE, *stable, "trainer.max_steps=2", "scheduler.num_steps=99").code == 0
    )
    run = _only(tmp_path / "runs")
    branch = tmp_path / "branch"
    shutil.copytree(run, branch)
    done = train(f"resume={branch}", "trainer.max_steps=6", "scheduler.num_steps=6")
    assert done.code == 0, done.err
    rates = [float(row["train/learning_rate"]) for row in rows_of(branch) if row["train/loss"]]
    decay = [1.0, 1 - (1 / 3) ** 0.5, 1 - (2 / 3) ** 0.5]
    assert rates == pytest.approx([0.002 * factor for factor in (1, 1, 1, *decay)])


def test_a_step_with_a_rate_of_zero_moves_no_weight(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    assert train(*small, *_SHAPE).code == 0
    run = _only(tmp_path / "runs")
    before = weights_in(tmp_path / "runs")
    done = train(f"resume={run}", "trainer.max_steps=5", "optimizer.learning_rate=1e-30")
    assert done.code == 0, done.err
    after = weights_in(tmp_path / "runs")
    assert all(torch.equal(value, after[name]) for name, value in before.items() if "model" in name)


@pytest.fixture
def other_text(tmp_path: Path) -> Path:
    file = tmp_path / "other.jsonl"
    lines = [json.dumps({"text": f"word{n} and word{n % 7} again"}) for n in range(60)]
    file.write_text("\n".join(lines))
    return file


def test_other_data_are_read_from_their_beginning(
    train: Callable, run: Path, other_text: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = (run / "tokenizer.json").read_bytes()
    done = train(f"resume={run}", f"data.path={other_text}", "trainer.max_steps=6")
    assert done.code == 0, done.err
    assert "changed  the data: rows start from their beginning" in caplog.text
    assert (run / "tokenizer.json").read_bytes() == kept, "ids mean what they meant"
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["global_step"] > 4, "scores on the former data say nothing of the new ones"
    caplog.clear()
    done = train(f"resume={run}", "trainer.max_steps=7")
    assert done.code == 0, done.err
    assert "the data" not in caplog.text, "they are the run's now"


def test_relative_data_lie_where_the_run_was_started(
    train: Callable,
    small: list[str],
    other_text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = [*small[:1], "data=text", f"data.path={other_text.name}", *small[3:], *_SHAPE]
    assert train(*own).code == 0
    run = _only(Path("runs")).resolve()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    Path(other_text.name).write_text('{"text": "others of the same name"}\n' * 9)
    caplog.clear()
    done = train(f"resume={run}", "trainer.max_steps=5")
    assert done.code == 0, done.err
    assert "the data" not in caplog.text
    assert _settings(run)["data"]["path"] == str(other_text)
    monkeypatch.chdir(tmp_path)
    done = train(f"resume={run}", "trainer.max_steps=6")
    assert done.code == 0, done.err


def test_relative_data_that_changed_are_refused_elsewhere_too(
    train: Callable,
    small: list[str],
    other_text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = [*small[:1], "data=text", f"data.path={other_text.name}", *small[3:], *_SHAPE]
    assert train(*own).code == 0
    run = _only(Path("runs")).resolve()
    with other_text.open("a") as file:
        file.write("\n" + json.dumps({"text": "one more word4 here"}))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    refused = train(f"resume={run}", "trainer.max_steps=6")
    assert refused.code == 1
    assert "the text has changed since" in refused.err
    other_text.rename(tmp_path / "docs2.jsonl")
    Path(f"{other_text.name}x").touch()
    refused = train(f"resume={run}", "trainer.max_steps=6")
    assert refused.code == 1
    assert (
        f"data.path {other_text.name}, which {run}/config.yaml names, does not exist, neither here "
        f"nor in {tmp_path}, where the run was started: give data.path=PLACE" in refused.err
    )
    (run / "environment.json").unlink()
    refused = train(f"resume={run}", "trainer.max_steps=6")
    assert "does not exist and is relative to the folder that the run was started" in refused.err


def test_a_run_without_checkpoints_says_so(train: Callable, small: list[str]) -> None:
    none = ["callbacks.checkpoint=null", "callbacks.last_checkpoint=null"]
    assert train(*small, *_SHAPE, *none).code == 0
    run = _only(Path("runs"))
    refused = train(f"resume={run}")
    assert refused.code == 1
    assert f"resume={run}: this run kept no checkpoints ({' '.join(none)})" in refused.err


def test_a_run_that_ended_before_its_first_checkpoint_says_so(train: Callable, run: Path) -> None:
    for file in (run / "checkpoints").iterdir():
        file.unlink()
    refused = train(f"resume={run}")
    assert refused.code == 1
    assert "this run has no checkpoint, it ended before it saved one" in refused.err


def test_a_resumed_run_keeps_its_name(train: Callable, small: list[str], tmp_path: Path) -> None:
    assert train(*small, *_SHAPE, "+experiment=gqa", "seed=3", "name=mine").code == 0
    run = _only(tmp_path / "runs")
    before = read_summary(run)["name"]
    assert train(f"resume={run}", "trainer.max_steps=5").code == 0
    assert read_summary(run)["name"] == name_of("mine", [*_settings(run)["overrides"]])
    assert before.startswith("mine debug=fast data=text")
    assert read_summary(run)["name"].startswith("mine debug=fast data=text")
    assert "++trainer.max_steps=5" in _settings(run)["overrides"]


def test_a_kill_before_the_first_save_does_not_lose_that_data_were_asked_for(
    train: Callable, run: Path, other_text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = run / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    assert train(f"resume={run}", f"data.path={other_text}", "trainer.max_steps=6").code == 0
    last.write_bytes(before)  # as if nothing had been saved since
    _as_unfinished(run)
    done = train(f"resume={run}")
    assert done.code == 0, done.err


def test_data_that_changed_are_refused_unless_asked_for(
    train: Callable, small: list[str], other_text: Path
) -> None:
    own = [*small[:1], "data=text", f"data.path={other_text}", *small[3:], *_SHAPE]
    assert train(*own).code == 0
    run = _only(Path("runs"))
    with other_text.open("a") as file:
        file.write("\n" + json.dumps({"text": "one more word4 here"}))
    refused = train(f"resume={run}", "trainer.max_steps=6")
    assert refused.code == 1
    assert refused.err.count("\n") == 1
    assert "the text has changed since" in refused.err
    advice = f"data.tokenizer={run.resolve() / 'tokenizer.json'}"
    assert f"to go on with them from their beginning, add {advice};" in refused.err
    done = train(f"resume={run}", "trainer.max_steps=6", advice)
    assert done.code == 0, done.err


def test_auto_starts_anew_where_the_text_has_changed(
    train: Callable, small: list[str], other_text: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = [*small[:1], "data=text", f"data.path={other_text}", *small[3:], *_SHAPE]
    assert train(*own).code == 0
    run = _only(Path("runs"))
    _as_unfinished(run)
    with other_text.open("a") as file:
        file.write("\n" + json.dumps({"text": "one more word4 here"}))
    done = train(*own, "resume=auto")
    assert done.code == 0, done.err
    (told,) = [line for line in caplog.messages if line.startswith("resume=auto: ")]
    assert f"{run}/checkpoints/last.ckpt was trained on other data: the text has changed" in told
    assert told.endswith("starting a new one")
    assert len(list(Path("runs").iterdir())) == 2
    assert not (run / "summary.json").exists()


def test_the_advice_after_a_loss_that_is_not_finite_works(
    train: Callable, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = TrainingModule._eager_loss

    def bad_at_a_high_rate(module: TrainingModule, *arguments: Any) -> Any:
        (scheduler,) = module.trainer.lr_scheduler_configs
        is_high = scheduler.scheduler.base_lrs[0] > 1e-3
        bad = module.trainer.training and is_high and module.trainer.global_step >= 2
        found = loss(module, *arguments)
        return (
            found._replace(loss=found.loss * float("nan"), nats=found.nats * float("nan"))
            if bad
            else found
        )

    monkeypatch.setattr(TrainingModule, "_eager_loss", bad_at_a_high_rate)
    done = train(*small, *_SHAPE, "guard.skips_in_a_row=2", "optimizer.learning_rate=2e-3")
    assert done.code == 1
    run = _only(tmp_path / "runs")
    (command,) = re.findall("`(python -m train .*?)`", done.err)
    done = train(*shlex.split(command)[3:])
    assert done.code == 0, done.err
    rows = [row for row in rows_of(run) if row["train/loss"]]
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4]
    rates = [float(row["train/learning_rate"]) for row in rows]
    assert rates[2] / rates[1] < 0.5, "the first resumed step has the new rate"
    assert not list(run.glob("skipped.csv")) or "3," not in (run / "skipped.csv").read_text()
