"""The folder of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from packformer.command_line.errors import keep_traceback
from packformer.ranks.launched import ERRORS
from packformer.run.lock import RunningElsewhere, is_running, lock_choice, lock_run
from packformer.run.recorded import chosen
from packformer.run.resume import name_of_configuration


def contents_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_in_the_folder_of_another_is_refused(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    command = (*small, "hydra.run.dir=one")
    assert train(*command).code == 0
    before = contents_of(tmp_path)
    for resume in ((), ("resume=auto",)):
        done = train(*command, "model.width=32", *resume)
        assert done.code == 1
        assert "one) holds a run, and nothing is overwritten: resume=" in done.err
        assert contents_of(tmp_path) == before
    assert train(*command, "model.width=31").code == 1
    assert contents_of(tmp_path) == before
    assert train(*command, "resume=one", "trainer.max_steps=6").code == 0


def test_a_start_that_fails_writes_nothing_where_another_run_has_begun(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "same"
    with lock_run(folder):
        before = contents_of(folder)
        done = train(*small, "hydra.run.dir=same")
        assert done.code == 1
        assert done.err.endswith("same is still running in another process\n"), done.err
        assert train(*small, "hydra.run.dir=same", "model.width=31").code == 1
        assert contents_of(folder) == before
    other = folder / "config.yaml"
    other.touch()  # of the run that ended meanwhile
    assert keep_traceback(RunningElsewhere(folder), folder, None, in_sweep=False) is None
    assert set(contents_of(folder)) == {other, *before}


def test_another_rank_keeps_its_traceback_while_rank_zero_has_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ERRORS, str(tmp_path))
    monkeypatch.setenv("LOCAL_RANK", "1")
    with lock_run(tmp_path / "run"):
        place = keep_traceback(ValueError("of rank 1"), tmp_path / "run", None, in_sweep=False)
    assert place is not None
    assert "of rank 1" in place.read_text()


def test_of_one_configuration_one_process_at_a_time_chooses(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    assert train(*small, "resume=auto").code == 0
    (folder,) = runs.iterdir()
    name = name_of_configuration(chosen(yaml.safe_load((folder / "config.yaml").read_text())))
    with lock_choice(runs, name):
        before = sorted(runs.iterdir())
        done = train(*small, "resume=auto")
        assert done.code == 1
        assert "another process is starting the run of this configuration in runs" in done.err
        assert len(done.err.splitlines()) == 1
        assert sorted(runs.iterdir()) == before
        assert train(*small, "resume=auto", "seed=1").code == 0, "another configuration"
        assert train(*small).code == 0, "asked for a second run"


def test_a_lock_that_is_none_is_told_in_one_line(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    assert train(*small, "hydra.run.dir=one").code == 0
    lock = tmp_path / "one" / ".lock"
    lock.unlink()
    lock.symlink_to(tmp_path / "one" / "config.yaml")
    done = train(*small, "resume=one", "trainer.max_steps=9")
    assert done.code == 1
    assert done.err.startswith("error: ")
    assert len(done.err.splitlines()) == 1
    assert "one/.lock is a link, and a lock must be a file of its own: remove it" in done.err
    with pytest.raises(ValueError, match=r"\.lock is a link"):
        is_running(tmp_path / "one")
    lock.unlink()
    lock.mkdir()
    with pytest.raises(ValueError, match=r"\.lock is a folder, and a lock must be"):
        is_running(tmp_path / "one")


def test_a_start_that_fails_leaves_neither_lock_nor_folder(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    assert train(*small, "resume=auto", "objective=none").code == 1
    assert not (tmp_path / "runs").exists()
