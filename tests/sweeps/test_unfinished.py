"""``-m ... resume=auto``: a sweep that was killed goes on, one that ended does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from packformer.run.lock import lock_run
from packformer.training import TrainingModule

AUTO = ("resume=auto", "trainer.max_steps=2,4", "callbacks.samples=null")


class _Killed(BaseException):
    """Ends a sweep where it stands, as SIGKILL does."""


@pytest.fixture
def killed(
    train: Callable, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The folder of a sweep whose second job was killed in its last step."""
    with monkeypatch.context() as patch:
        step = TrainingModule.training_step

        def step_or_kill(module: TrainingModule, *arguments: object) -> object:
            if module.trainer.global_step == 3:
                raise _Killed
            return step(module, *arguments)

        patch.setattr(TrainingModule, "training_step", step_or_kill)
        with pytest.raises(_Killed):
            train("-m", *small, *AUTO)
    (sweep,) = (tmp_path / "runs" / "sweeps").iterdir()
    return sweep


def test_a_killed_sweep_goes_on_and_trains_no_finished_job_again(
    train: Callable, small: list[str], killed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done, stopped = sorted(killed.glob("?_*"))
    before = {file: file.read_bytes() for file in done.rglob("*") if file.is_file()}
    caplog.clear()
    again = train("-m", *small, *AUTO)
    assert again.code == 0, again.err
    shown = killed.relative_to(Path.cwd())
    assert again.out.startswith(f"resume=auto: the sweep in {shown} goes on\njob {done.name} fini")
    assert "resumed  after step 2" in caplog.text
    assert {file: file.read_bytes() for file in before} == before
    assert (stopped / "summary.json").is_file()
    assert len((killed / "sweep.csv").read_text().splitlines()) == 3
    assert list(killed.parent.iterdir()) == [killed]
    assert not list(killed.parents[1].glob("2*"))

    third = train("-m", *small, *AUTO)
    assert third.code == 0, third.err
    assert "finished before" not in third.out, "the sweep had ended"
    assert len(list(killed.parent.iterdir())) == 2


def test_another_sweep_or_one_that_is_running_is_left_alone(
    train: Callable, small: list[str], killed: Path
) -> None:
    other = train("-m", *small, "resume=auto", "trainer.max_steps=1,2", "callbacks.samples=null")
    assert other.code == 0, other.err
    assert len(list(killed.parent.iterdir())) == 2
    (first, _) = sorted(killed.glob("?_*"))
    (killed.parent / "damaged").mkdir()
    (killed.parent / "damaged" / "multirun.yaml").write_text("a: [")
    with lock_run(first):
        asked = train("-m", *small, *AUTO)
    assert asked.code == 0, asked.err
    assert "goes on" not in asked.out
