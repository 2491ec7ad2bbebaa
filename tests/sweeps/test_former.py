"""A sweep in the folder of an earlier one: nothing is overwritten, and no job is run twice."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from forks import fork_workers

from packformer.command_line.main import main
from packformer.run.summary import read_summary
from packformer.sweeps.former import former_settings

SWEEP = ("-m", "hydra.sweep.dir=tree")
SIDE_BY_SIDE = ("hydra/launcher=side_by_side", "hydra.launcher.jobs=2", "trainer.accelerator=cpu")


def state(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(folder: Path) -> list[str]:
    with (folder / "sweep.csv").open() as file:
        return [row["name"] for row in csv.DictReader(file)]


@pytest.fixture(autouse=True)
def _forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    fork_workers(monkeypatch)


@pytest.fixture(scope="module")
def finished_sweep(tmp_path_factory: pytest.TempPathFactory, small: list[str]) -> Path:
    """A sweep of two finished jobs."""
    folder = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        command = (*SWEEP, "+experiment=mha,gqa", *small, "trainer.accelerator=cpu")
        patch.setattr("sys.argv", ["train", *command])
        main()
    return folder / "tree"


@pytest.fixture
def tree(finished_sweep: Path, tmp_path: Path) -> Path:
    """A copy of it in the folder where ``train`` runs."""
    return Path(shutil.copytree(finished_sweep, tmp_path / "tree"))


def test_a_sweep_of_other_settings_is_refused_before_it_begins(
    train: Callable, small: list[str], tree: Path
) -> None:
    (tree / "1_gqa/summary.json").unlink()  # an unfinished job counts like a finished one
    before = state(tree)
    mha = "error: tree/0_mha is a job of other settings (model.width: 64 there, 32 here): nothing"
    for experiments, setting, told in (
        ("mha,gqa", "model.width=32", mha),
        ("mha", "model.width=32", mha),
        ("mha,gqa", "trainer.max_steps=2", "trainer.max_steps: 4 there, 2 here"),
        ("alibi", "model.width=32", "error: tree holds another sweep: its job 0_mha is not 0_alib"),
        ("alibi,mha", "model.width=32", "error: tree holds another sweep: its job 0_mha is not 1"),
        ("mha", "trainer.max_steps=6", "tree/1_gqa is a job of other settings"),
    ):
        for launcher in ((), SIDE_BY_SIDE):
            command = (f"+experiment={experiments}", *small, "trainer.accelerator=cpu", setting)
            done = train(*SWEEP, *command, *launcher)
            assert done.code == 1
            assert told in done.err
            assert done.err.endswith("hydra.sweep.dir\n")
            assert done.err.count("\n") == 1
            assert state(tree) == before
            assert sorted(path.name for path in tree.glob("*_*")) == ["0_mha", "1_gqa"]


def test_a_finished_job_of_other_settings_that_could_change_is_refused_too(
    train: Callable, small: list[str], tree: Path
) -> None:
    """It has no step left to do with them."""
    before = state(tree)
    command = ("+experiment=mha,gqa", *small, "trainer.accelerator=cpu", "loader.validation_rows=3")
    done = train(*SWEEP, *command)
    assert done.code == 1
    assert "loader.validation_rows" in done.err
    assert state(tree) == before


def test_jobs_are_found_by_their_settings(train: Callable, small: list[str], tree: Path) -> None:
    before = state(tree)
    command = ("+experiment=alibi,mha,gqa", *small, "trainer.accelerator=cpu")
    done = train(*SWEEP, *command)
    assert done.code == 0, done.err
    assert "job 0_mha finished before" in done.out
    assert "job 1_gqa finished before" in done.out
    assert names(tree) == ["alibi", "mha", "gqa"]
    after = state(tree)
    changed = {path.name for path in before if after[path] != before[path]}
    assert changed == {"multirun.yaml", "sweep.csv"}
    again = train(*SWEEP, *command, *SIDE_BY_SIDE)
    assert again.out.startswith("3 jobs finished before\n")
    assert names(tree) == ["alibi", "mha", "gqa"]


@pytest.mark.parametrize("launcher", [(), SIDE_BY_SIDE])
def test_finished_jobs_go_on_to_a_later_end(
    launcher: tuple[str, ...], train: Callable, small: list[str], tree: Path
) -> None:
    command = ("+experiment=gqa,mha", *small, "trainer.accelerator=cpu", "trainer.max_steps=6")
    done = train(*SWEEP, *command, *launcher)
    assert done.code == 0, done.err
    assert names(tree) == ["mha", "gqa"]
    for job in ("0_mha", "1_gqa"):
        assert json.loads((tree / job / "summary.json").read_text())["steps"] == 6
        with (tree / job / "metrics.csv").open() as file:
            steps = {int(row["step"]) for row in csv.DictReader(file)}
        assert {4, 6} <= steps
        assert max(steps) == 6


def test_a_job_that_failed_before_it_began_is_run_in_its_folder(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    wrong = ("data.path=missing", "seed=1,2", *SWEEP)
    settings = [setting for setting in small if not setting.startswith("data.path=")]
    assert train(*wrong, *settings).code == 1
    (path,) = (setting for setting in small if setting.startswith("data.path="))
    assert train("seed=3,1,2", path, *SWEEP, *settings).code == 0
    folders = sorted(path.name for path in (tmp_path / "tree").iterdir() if path.is_dir())
    assert folders == ["0_default_seed-1", "0_default_seed-3", "1_default_seed-2"]
    assert names(tmp_path / "tree") == [f"default seed={seed}" for seed in (1, 3, 2)]


def test_one_run_is_not_continued_by_several_jobs(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    for seed in ("1", "2"):
        assert train(*small, f"seed={seed}", f"hydra.run.dir=run{seed}").code == 0
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    rates = "optimizer.learning_rate=1e-3,1e-4"
    refused = train("-m", "resume=run1", rates, "trainer.max_steps=6")
    assert refused.code == 1
    assert "resume=run1: several jobs would continue this run: give each a run" in refused.err
    assert {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()} == before
    done = train("-m", "resume=run1,run2", "trainer.max_steps=6")
    assert done.code == 0, done.err
    for seed in ("1", "2"):
        assert read_summary(tmp_path / f"run{seed}")["steps"] == 6
        assert former_settings(tmp_path / f"run{seed}")["seed"] == int(seed)
