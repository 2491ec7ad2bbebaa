"""A run that was killed goes on as if it had not been."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import yaml

from packformer.run.folder import write_records
from packformer.run.lock import is_running, lock_run

_TIMES = ("train/tokens_per_second", "data/wait", "memory/peak_process_bytes")
_LENGTH = ("trainer.max_steps=8", "trainer.validate_every_n_steps=3", "packing.row_length=128")


def _rows(output_dir: Path) -> list[dict[str, str]]:
    (folder,) = {file.parent for file in output_dir.glob("*/metrics.csv")}
    return _rows_of(folder)


def _rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as stream:
        return [
            {name: value for name, value in row.items() if name not in _TIMES}
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


def test_auto_tells_what_differs_from_the_newest_unfinished_run(
    train: Callable, small: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "packformer")
    assert train(*small, "resume=auto").code == 0
    assert "resume=auto: there is no unfinished run in runs, starting a new one" in caplog.text
    (folder,) = (tmp_path / "runs").iterdir()
    (folder / "summary.json").unlink()  # as if it had been killed
    (tmp_path / "runs" / "config.yaml").write_text("a: [")  # no run's: left out
    caplog.clear()
    assert train(*small, "resume=auto", "seed=1", "trainer.max_steps=3").code == 0
    assert f"resume=auto: the newest unfinished run, in runs/{folder.name}, has " in caplog.text
    for difference in ("seed 0 (here 1)", "trainer.max_steps 4 (here 3)"):
        assert difference in caplog.text
    caplog.clear()
    many = ["model.width=32", "model.num_layers=1", "optimizer.eps=1e-7", "optimizer.beta1=0.8"]
    assert train(*small, "resume=auto", "seed=1", "attention=mqa", *many).code == 0
    assert re.search(r", (1 more difference|\d+ more differences), starting a new one", caplog.text)


def test_a_finished_run_can_be_prolonged(train: Callable, small: list[str], tmp_path: Path) -> None:
    assert train(*small).code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    done = train(*small, f"resume={folder}", "trainer.max_steps=6")
    assert done.code == 0, done.err
    assert list((tmp_path / "runs").iterdir()) == [folder]
    assert [int(row["step"]) for row in _rows(tmp_path / "runs") if row["val/loss"]] == [2, 4, 6]
    assert (folder / "config-1.yaml").is_file(), "the former configuration is kept"
    for setting, before, now in (
        ("optimizer.learning_rate", "0.002", "0.5"),
        ("attention.window", "null", "16"),
        ("position._target_", "packformer.nn.Rotary", "packformer.nn.NoPosition"),
    ):
        override = "position=none" if "position" in setting else f"{setting}={now}"
        refused = train(*small, f"resume={folder}", "trainer.max_steps=8", override)
        assert refused.code == 1
        assert f"{setting}: {before} in the run, {now} now" in refused.err
    fewer = train(*small, f"resume={folder}", "trainer.max_steps=5")
    assert "the run has done 6 steps, more than trainer.max_steps (5): raise it" in fewer.err
    assert not (folder / "config-2.yaml").exists()


def test_a_finished_run_is_measured_again_and_nothing_of_it_changes(
    train: Callable, small: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert train(*small).code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    for _ in range(2):
        done = train(*small, f"resume={folder}")
        assert done.code == 0, done.err
        assert "validation loss" in done.out
        assert "tokens/s" in done.out, "what was measured in training is still told"
        assert "finished before: measured again, nothing is recorded" in caplog.text
    assert {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()} == before
    assert train(*small, f"resume={folder}", "trainer.max_steps=5").code == 0
    assert [int(row["step"]) for row in _rows(tmp_path / "runs") if row["val/loss"]] == [2, 4, 5]


class _Killed(BaseException):
    """Ends a run where it stands, as SIGKILL does: nothing in it can catch it and save."""


def _killing(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Kills a run at the ``at``-th place: before and after every record and every save."""
    import lightning as L

    from packformer.training import StepRecords

    places = iter(range(at + 1))

    def passing(function: Any) -> Any:
        def passed(*arguments: Any, **options: Any) -> Any:
            for call in (lambda: None, lambda: function(*arguments, **options)):
                found = call()
                if next(places, None) == at:
                    raise _Killed
            return found

        return passed

    for owner, name in (
        (StepRecords, "_record"),
        (StepRecords, "on_validation_end"),
        (L.Trainer, "save_checkpoint"),
    ):
        monkeypatch.setattr(owner, name, passing(getattr(owner, name)))


@pytest.mark.parametrize(
    ("seed", "steps", "every"), [(0, 5, 2), (11, 2, 2), (2, 3, 5), (3, 5, 1), (4, 1, 1)]
)
def test_no_kill_doubles_or_loses_a_row(
    train: Callable, small: list[str], tmp_path: Path, seed: int, steps: int, every: int
) -> None:
    """Killed twice, finished, resumed again: the rows are those of a run that never stopped."""
    shape = ("model.num_layers=1", "packing.row_length=64", f"trainer.max_steps={steps}")
    often = ("callbacks.last_checkpoint.every_minutes=1e-9", "resume=auto")
    command = [*small, *shape, *often, f"trainer.validate_every_n_steps={every}"]
    assert train(*command, "output_dir=whole").code == 0
    random = Random(seed)
    for _ in range(2):
        with pytest.MonkeyPatch.context() as patch, suppress(_Killed):
            _killing(patch, at=random.randrange(4 * steps))
            train(*command, "output_dir=killed")
    assert train(*command, "output_dir=killed").code == 0
    finished = [file.parent for file in (tmp_path / "killed").glob("*/summary.json")]
    assert train(*command, f"resume={finished[0]}").code == 0, "once more"
    rows = _rows(tmp_path / "whole")
    assert [_rows_of(folder) for folder in finished] == [rows] * len(finished)
    for name in ("train/loss", "val/loss"):
        recorded = [int(row["step"]) for row in rows if row[name]]
        assert recorded == sorted(set(recorded))


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
        shutil.copy(good, bad)  # in no run folder: there are no settings to compare
        settings, message = ["model.width=128"], "is of another model"
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
    assert process.returncode == 130, last_lines
    assert "interrupted: saving after this step" in last_lines
    assert f"interrupted: go on with the same command and resume={folder}" in last_lines
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
    write_records(folder, config, None)  # what a run that goes on does first
    assert (folder / "summary-1.json").is_file()
    assert (folder / "environment-1.json").is_file()
    assert train(*small, "resume=auto").code == 0
    assert list((tmp_path / "runs").iterdir()) == [folder]


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("seed=1", "loader.seed: 0 in the run, 1 now"),
        ("packing.lookahead=3", "packing.lookahead: 256 in the run, 3 now"),
        ("data.validation_fraction=0.2", "data.validation_fraction: 0.05 in the run, 0.2 now"),
        ("data.vocab_size=301", "data.vocab_size: 300 in the run, 301 now"),
    ],
)
def test_a_run_does_not_go_on_with_other_data(
    train: Callable, small: list[str], tmp_path: Path, setting: str, told: str
) -> None:
    assert train(*small, "model.vocab_size=320").code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    before = (folder / "config.yaml").read_bytes()
    done = train(*small, "model.vocab_size=320", f"resume={folder}", setting)
    assert done.code == 1
    assert f"last.ckpt cannot go on with other settings: {told}: repeat" in done.err
    assert (folder / "config.yaml").read_bytes() == before
    assert not (folder / "config-1.yaml").exists()


def _interrupting(monkeypatch: pytest.MonkeyPatch, at_step: int) -> None:
    """Lets a run believe that it was interrupted during ``at_step``."""
    from packformer.training import LastCheckpoint

    on_end = LastCheckpoint.on_train_batch_end

    def interrupted(self, trainer, *arguments):  # type: ignore[no-untyped-def]
        self._asked = trainer.global_step == at_step
        on_end(self, trainer, *arguments)

    monkeypatch.setattr(LastCheckpoint, "on_train_batch_end", interrupted)


def test_a_validation_that_is_not_the_best_is_saved_too(train: Callable, tmp_path: Path) -> None:
    """Lightning saves its last checkpoint only where it saves its best."""
    getting_worse = ("optimizer.learning_rate=0.1", "scheduler=constant", "max_grad_norm=null")
    assert train("+debug=fast", "data=random", *getting_worse, "trainer.max_steps=4").code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    steps = {
        name: torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["global_step"]
        for name in ("best", "last")
    }
    assert steps == {"best": 2, "last": 4}


@pytest.mark.parametrize("at_step", [4, 5])
def test_a_validation_due_at_the_interrupted_step_is_not_missed(
    train: Callable, small: list[str], tmp_path: Path, at_step: int
) -> None:
    length = ("trainer.max_steps=8", "trainer.validate_every_n_steps=2")
    with pytest.MonkeyPatch.context() as patch:
        _interrupting(patch, at_step)
        assert train(*small, *length, "output_dir=stopped").code == 130
    assert train(*small, *length, "output_dir=stopped", "resume=auto").code == 0
    assert train(*small, *length, "output_dir=whole").code == 0
    assert _rows(tmp_path / "stopped") == _rows(tmp_path / "whole")


def test_a_save_waits_for_the_end_of_an_accumulation(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    settings = [
        *small,
        "trainer.rows_per_step=3",
        "trainer.max_steps=7",
        "trainer.validate_every_n_steps=5",
    ]
    saving = "callbacks.last_checkpoint.every_minutes=1e-9"  # after every step
    with pytest.MonkeyPatch.context() as patch:
        _interrupting(patch, 4)
        assert train(*settings, saving, "output_dir=stopped").code == 130
    (file,) = tmp_path.glob("stopped/*/checkpoints/last.ckpt")
    batches = torch.load(file, weights_only=True)["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    assert batches["total"]["processed"] == 3 * 4
    assert train(*settings, saving, "output_dir=stopped", "resume=auto").code == 0
    assert train(*settings, saving, "output_dir=whole").code == 0
    assert _rows(tmp_path / "stopped") == _rows(tmp_path / "whole")
    stopped, whole = _weights(tmp_path / "stopped"), _weights(tmp_path / "whole")
    for name, value in whole.items():
        assert torch.equal(value, stopped[name]), name


def test_a_checkpoint_within_a_step_repeats_the_step(
    train: Callable, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a callback of the user's may save it; then with other rows of a step, step by step."""
    from packformer.training import LastCheckpoint

    def save_within(self, trainer, module, outputs, batch, batch_idx):  # type: ignore[no-untyped-def]
        if batch_idx == 3 * 2 + 1:
            self._save(trainer)
            raise KeyboardInterrupt

    settings = [*small, "trainer.rows_per_step=3", "trainer.max_steps=6"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LastCheckpoint, "on_train_batch_end", save_within)
        assert train(*settings, "output_dir=stopped").code == 130
    assert train(*settings, "output_dir=stopped", "resume=auto").code == 0
    assert train(*settings, "output_dir=whole").code == 0
    stopped, whole = _weights(tmp_path / "stopped"), _weights(tmp_path / "whole")
    for name, value in whole.items():
        assert torch.equal(value, stopped[name]), name
    (folder,) = (tmp_path / "whole").iterdir()
    more = ("trainer.rows_per_step=2", "trainer.max_steps=10", f"resume={folder}")
    assert train(*small, *more).code == 0
    steps = [(int(row["step"]), bool(row["val/loss"])) for row in _rows(tmp_path / "whole")]
    assert [step for step, validated in steps if not validated] == list(range(1, 11))
    assert [step for step, validated in steps if validated] == [2, 4, 6, 8, 10]


def test_weights_that_are_not_finite_are_never_saved(
    train: Callable, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from packformer.training import TrainingModule

    def break_weights(module, *_):  # type: ignore[no-untyped-def]
        if module.trainer.global_step == 3:
            module.model.norm.weight.data.fill_(float("nan"))

    monkeypatch.setattr(TrainingModule, "on_train_batch_start", break_weights)
    _interrupting(monkeypatch, 4)
    done = train(
        *small,
        "trainer.max_steps=9",
        "trainer.log_every_n_steps=50",
        "trainer.validate_every_n_steps=3",
    )
    assert done.code == 1
    assert "the weights at step 4 are not finite" in done.err
    assert all(value.isfinite().all() for value in _weights(tmp_path / "runs").values())


@pytest.mark.parametrize("how", ["moved", "linked"])
def test_the_best_checkpoint_of_a_moved_run_is_kept(
    train: Callable, small: list[str], tmp_path: Path, how: str
) -> None:
    settings = [*small, "scheduler=constant", "trainer.validate_every_n_steps=3"]
    assert train(*settings, "trainer.max_steps=9").code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    place = tmp_path / "elsewhere"
    if how == "moved":
        folder.rename(place)
    else:
        place.symlink_to(folder)
    best = place / "checkpoints" / "best.ckpt"
    before = best.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        from packformer.training.metrics import TokenLoss

        compute = TokenLoss.compute
        patch.setattr(
            TokenLoss, "compute", lambda self: {k: v + 9 for k, v in compute(self).items()}
        )
        done = train(*settings, f"resume={place}", "trainer.max_steps=15")
    assert done.code == 0, done.err
    assert best.read_bytes() == before, "a worse model took its place"


def test_half_a_line_of_metrics_is_left_out(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    assert train(*small).code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    with (folder / "metrics.csv").open("a") as file:
        file.write("4,0.1")
    done = train(*small, f"resume={folder}", "trainer.max_steps=6")
    assert done.code == 0, done.err
    assert [int(row["step"]) for row in _rows(tmp_path / "runs") if row["val/loss"]] == [2, 4, 6]


@pytest.mark.parametrize("content", [b"a: [1,", b"words", b"\xff\xfe\x00", b""])
def test_a_damaged_configuration_does_not_stop_auto(
    train: Callable, small: list[str], tmp_path: Path, content: bytes
) -> None:
    damaged = tmp_path / "runs" / "damaged"
    (damaged / "checkpoints").mkdir(parents=True)
    (damaged / "checkpoints" / "last.ckpt").touch()
    (damaged / "config.yaml").write_bytes(content)
    done = train(*small, "resume=auto")
    assert done.code == 0, done.err
    (new,) = (folder for folder in (tmp_path / "runs").iterdir() if folder != damaged)
    assert json.loads((new / "summary.json").read_text())["steps"] == 4
    assert (damaged / "config.yaml").read_bytes() == content
    assert sorted(file.name for file in damaged.iterdir()) == ["checkpoints", "config.yaml"]


def _as_older_packformer_left_it(folder: Path) -> None:
    """Takes out what was added since: from the configuration and the checkpoints' identity."""
    added = {"model": "norm_eps", "attention": "head_dim", "position": "scaling"}
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for group, name in added.items():
        config[group].pop(name, None)
    config["trainer"].pop("float8")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for file in (folder / "checkpoints").glob("*.ckpt"):
        checkpoint = torch.load(file, weights_only=True)
        for group, name in added.items():
            checkpoint["packformer"].pop(f"{group}.{name}", None)
        torch.save(checkpoint, file)


def test_a_run_of_before_goes_on_without_settings_that_were_added(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    assert train(*small).code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    _as_older_packformer_left_it(folder)
    (folder / "summary.json").unlink()
    done = train(*small, "resume=auto")
    assert done.code == 0, done.err
    assert list((tmp_path / "runs").iterdir()) == [folder]
    _as_older_packformer_left_it(folder)
    done = train(*small, f"resume={folder}", "trainer.max_steps=5")
    assert done.code == 0, done.err
    refused = train(*small, f"resume={folder}", "model.norm_eps=1e-6")
    assert "model.norm_eps: null in the run, 1e-06 now" in refused.err
    bare = tmp_path / "last.ckpt"
    shutil.copy(folder / "checkpoints" / "last.ckpt", bare)
    refused = train(*small, f"resume={bare}", "model.norm_eps=1e-6", "trainer.max_steps=6")
    assert "model.norm_eps was None there and is 1e-06 here" in refused.err


def test_norms_of_queries_and_keys_have_the_epsilon_their_run_had(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    normed = [*small, "attention.qk_norm=true"]
    assert train(*normed, "model.norm_eps=null").code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    _as_older_packformer_left_it(folder)
    refused = train(*normed, f"resume={folder}", "trainer.max_steps=5")
    assert "model.norm_eps: null in the run, 1e-05 now" in refused.err
    done = train(*normed, f"resume={folder}", "trainer.max_steps=5", "model.norm_eps=null")
    assert done.code == 0, done.err
