"""What a checkpoint holds and when it is saved; one that is damaged or lies elsewhere."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import packformer

from .conftest import rows_in, weights_in


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


def test_a_damaged_best_checkpoint_names_the_last_beside_it(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    assert train(*small).code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    best, last = (folder / "checkpoints" / name for name in ("best.ckpt", "last.ckpt"))
    best.write_bytes(last.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=f"; {re.escape(str(last))} is whole: give that$"):
        packformer.load(folder)
    last.unlink()
    with pytest.raises(ValueError, match=r"damaged or no checkpoint \([^;]*\)$"):
        packformer.load(folder)


def test_a_run_folder_without_its_configuration_is_not_continued(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    assert train(*small).code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    (folder / "config.yaml").unlink()
    done = train(*small, f"resume={folder}", "trainer.max_steps=6")
    assert done.code == 1
    told = f"resume={folder}: the folder has no config.yaml, so it cannot be continued: copy"
    assert done.err.splitlines()[-1].startswith(f"error: {told}")
    assert list((tmp_path / "runs").iterdir()) == [folder]


def _interrupting(monkeypatch: pytest.MonkeyPatch, at_step: int) -> None:
    """Lets a run believe that it was interrupted during ``at_step``."""
    from packformer.training import LastCheckpoint

    on_end = LastCheckpoint.on_train_batch_end

    def interrupted(self, trainer, *arguments):  # type: ignore[no-untyped-def]
        self._asked = signal.SIGINT if trainer.global_step == at_step else 0
        on_end(self, trainer, *arguments)

    monkeypatch.setattr(LastCheckpoint, "on_train_batch_end", interrupted)


def test_a_validation_that_is_not_the_best_is_saved_too(train: Callable, tmp_path: Path) -> None:
    """Lightning saves its last checkpoint only where it saves its best."""
    getting_worse = ("optimizer.learning_rate=0.3", "scheduler=constant", "max_grad_norm=null")
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
    assert rows_in(tmp_path / "stopped") == rows_in(tmp_path / "whole")


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
    assert rows_in(tmp_path / "stopped") == rows_in(tmp_path / "whole")
    stopped, whole = weights_in(tmp_path / "stopped"), weights_in(tmp_path / "whole")
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
    stopped, whole = weights_in(tmp_path / "stopped"), weights_in(tmp_path / "whole")
    for name, value in whole.items():
        assert torch.equal(value, stopped[name]), name
    (folder,) = (tmp_path / "whole").iterdir()
    more = ("trainer.rows_per_step=2", "trainer.max_steps=10", f"resume={folder}")
    assert train(*small, *more).code == 0
    steps = [(int(row["step"]), bool(row["val/loss"])) for row in rows_in(tmp_path / "whole")]
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
    assert all(value.isfinite().all() for value in weights_in(tmp_path / "runs").values())


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
