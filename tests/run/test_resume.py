"""A run that was killed continues as if it had not been."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from forks import Forked, sweep

from packformer.run.resume import find_checkpoint

from .conftest import rows_in, rows_of, weights_in

_LENGTH = ("trainer.max_steps=8", "trainer.validate_every_n_steps=3", "packing.row_length=128")


def test_a_killed_run_goes_on_exactly(train: Callable, small: list[str], tmp_path: Path) -> None:
    whole = train("+experiment=gqa", *small, *_LENGTH, "output_dir=whole")
    assert whole.code == 0, whole.err
    command = ["+experiment=gqa", *small, *_LENGTH, "output_dir=killed"]
    with Forked(sweep, command, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert any("step 5/8" in line for line in process.stdout)
        process.kill()
    resumed = train("+experiment=gqa", *small, *_LENGTH, "output_dir=killed", "resume=auto")
    assert resumed.code == 0, resumed.err
    assert len(list((tmp_path / "killed").iterdir())) == 1, "it continues in its own folder"
    assert rows_in(tmp_path / "killed") == rows_in(tmp_path / "whole")
    killed, whole_weights = weights_in(tmp_path / "killed"), weights_in(tmp_path / "whole")
    assert killed.keys() == whole_weights.keys()
    for name, value in whole_weights.items():
        assert torch.equal(value, killed[name]), name


def test_a_finished_run_can_be_prolonged(train: Callable, small: list[str], tmp_path: Path) -> None:
    assert train(*small).code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    done = train(*small, f"resume={folder}", "trainer.max_steps=6")
    assert done.code == 0, done.err
    assert list((tmp_path / "runs").iterdir()) == [folder]
    assert [int(row["step"]) for row in rows_in(tmp_path / "runs") if row["val/loss"]] == [2, 4, 6]
    assert (folder / "config-1.yaml").is_file(), "the former configuration is kept"
    for setting, before, now in (
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
    assert [int(row["step"]) for row in rows_in(tmp_path / "runs") if row["val/loss"]] == [2, 4, 5]


def test_text_in_place_of_a_number_of_a_finished_run_is_named(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    assert train(*small).code == 0
    (file,) = (tmp_path / "runs").glob("*/summary.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "fill": "abc"}))
    done = train(*small, f"resume={file.parent}")
    assert done.code == 1
    told = f"error: {file}: fill (abc) must be a number or null: mend it, or remove the file"
    assert done.err.startswith(told)


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
    rows = rows_in(tmp_path / "whole")
    assert [rows_of(folder) for folder in finished] == [rows] * len(finished)
    for name in ("train/loss", "val/loss"):
        recorded = [int(row["step"]) for row in rows if row[name]]
        assert recorded == sorted(set(recorded))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
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
    with Forked(sweep, [*settings, "trainer.max_steps=100000"], cwd=tmp_path) as process:
        assert process.stdout is not None
        assert any("step     14/" in line for line in process.stdout)
        process.send_signal(number)
        last_lines = process.stdout.read()
    (folder,) = (tmp_path / "runs").iterdir()
    assert process.returncode == 128 + number, last_lines
    assert "interrupted: saving after this step" in last_lines
    assert f"interrupted: continue with resume={folder}" in last_lines
    step = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    end = f"trainer.max_steps={step + 9}"
    for how in (f"resume={folder}", "output_dir=whole"):
        done = train(*settings, end, how)
        assert done.code == 0, done.err
    assert rows_in(tmp_path / "runs") == rows_in(tmp_path / "whole")
    weights = weights_in(tmp_path / "runs")
    for name, value in weights_in(tmp_path / "whole").items():
        assert torch.equal(value, weights[name]), name


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("seed=1", "seed: 0 in the run, 1 now"),
        ("packing.lookahead=3", "packing.lookahead: 256 in the run, 3 now"),
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
    assert f"last.ckpt cannot continue with other settings: {told}: leave out" in done.err
    assert (folder / "config.yaml").read_bytes() == before
    assert not (folder / "config-1.yaml").exists()


def test_half_a_line_of_metrics_is_left_out(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    assert train(*small).code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    with (folder / "metrics.csv").open("a") as file:
        file.write("4,0.1")
    done = train(*small, f"resume={folder}", "trainer.max_steps=6")
    assert done.code == 0, done.err
    assert [int(row["step"]) for row in rows_in(tmp_path / "runs") if row["val/loss"]] == [2, 4, 6]


def test_checkpoints_elsewhere_are_told(tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run.mkdir()
    elsewhere.mkdir()
    (run / "config.yaml").write_text("seed: 0\n")
    (elsewhere / "last.ckpt").touch()
    (run / "checkpoints").symlink_to(elsewhere)
    with pytest.raises(ValueError, match="leads out of the run's folder, to .*elsewhere/last.ckpt"):
        find_checkpoint(str(run), tmp_path, {})
    (run / "checkpoints").unlink()
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "best.ckpt").touch()
    (run / "checkpoints" / "last.ckpt").symlink_to("best.ckpt")
    assert find_checkpoint(str(run), tmp_path, {}) == run / "checkpoints" / "last.ckpt"
