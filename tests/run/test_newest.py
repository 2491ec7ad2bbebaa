"""A run continues from its newest checkpoint that is whole."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from packformer.run.newest import newest_whole
from packformer.training.checkpoint import AtomicCheckpointIO, resumable_step
from packformer.training.former import FormerCheckpoints
from packformer.training.last_checkpoint import LastCheckpoint

from .conftest import rows_of


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    for name, step in {"previous": 1, "best": 2, "last": 3}.items():
        checkpoint = {
            "packformer": {},
            "loops": {},
            "global_step": step,
            "state_dict": {},
            "PackedDataModule": {"stream": {}},
        }
        file = tmp_path / "checkpoints" / f"{name}.ckpt"
        AtomicCheckpointIO().save_checkpoint(checkpoint, file)
    torch.save({"state_dict": {}}, tmp_path / "checkpoints" / "weights.ckpt")
    return tmp_path / "checkpoints"


def _damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def test_the_newest_is_taken_and_others_are_told(
    checkpoints: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("last", "best", "previous"):
        caplog.clear()
        file = checkpoints / f"{name}.ckpt"
        assert newest_whole(checkpoints.parent) == file
        assert caplog.text.count(f": continuing from {name}.ckpt") == len(caplog.messages)
        _damage(file)
    with pytest.raises(ValueError, match=r"last\.ckpt is not whole .*previous\.ckpt is not whole"):
        newest_whole(checkpoints.parent)


def _tear_last_save(patch: pytest.MonkeyPatch, step: int) -> None:
    """The disk gives other bytes back than were written, of the checkpoint of a step."""
    read = FormerCheckpoints._read

    def torn(former: FormerCheckpoints) -> None:
        if resumable_step(former._last) == step:
            _damage(former._last)
        read(former)

    patch.setattr(FormerCheckpoints, "_read", torn)


def test_a_run_whose_last_save_does_not_read_back_fails_and_goes_on(
    train: Callable, small: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = (*small, "trainer.max_steps=4", "trainer.validate_every_n_steps=2")
    with pytest.MonkeyPatch.context() as patch:
        _tear_last_save(patch, step=4)
        done = train(*settings)
    (folder,) = (tmp_path / "runs").iterdir()
    saved = folder / "checkpoints"
    assert done.code == 1
    assert f"error: {saved / 'last.ckpt'} was saved and does not read back (" in done.err
    assert re.search(rf"; {saved}/(best|previous)\.ckpt is whole: continue from it", done.err)
    assert not (folder / "summary.json").exists()
    again = train(*settings, "resume=auto")
    assert again.code == 0, again.err
    assert f"skipped  {saved / 'last.ckpt'} is not whole" in caplog.text
    assert json.loads((folder / "summary.json").read_text())["steps"] == 4


def test_an_interrupted_run_tells_that_its_last_save_does_not_read_back(
    train: Callable,
    small: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = LastCheckpoint.on_train_batch_start

    def signalled(callback: LastCheckpoint, trainer: Any, *arguments: Any) -> None:
        start(callback, trainer, *arguments)
        if trainer.global_step == 2:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(LastCheckpoint, "on_train_batch_start", signalled)
    _tear_last_save(monkeypatch, step=3)
    length = ("trainer.max_steps=6", "trainer.validate_every_n_steps=2")
    done = train(*small, *length, "callbacks.checkpoint=null")
    assert done.code == 143, done.err
    (folder,) = (tmp_path / "runs").iterdir()
    told = f"{folder}/checkpoints/last.ckpt was saved and does not read back ("
    (line,) = (line for line in caplog.messages if line.startswith(told))
    assert line.endswith(f"{folder}/checkpoints/previous.ckpt is whole: continue from it")


def test_what_is_no_file_is_passed_over(
    checkpoints: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(checkpoints / "pipe.ckpt")  # reading would wait for ever
    (checkpoints / "folder.ckpt").mkdir()
    (checkpoints / "link.ckpt").symlink_to("nowhere")
    assert newest_whole(checkpoints.parent) == checkpoints / "last.ckpt"
    assert caplog.text.count("is not whole (it is no file): continuing from last.ckpt") == 3


@pytest.mark.parametrize("resume", ["auto", "folder"])
def test_a_run_with_a_damaged_checkpoint_goes_on_from_the_one_before(
    train: Callable,
    small: list[str],
    tmp_path: Path,
    resume: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "packformer")
    settings = [*small, "trainer.validate_every_n_steps=2", "callbacks.checkpoint=null"]
    assert train(*settings).code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    (folder / "summary.json").unlink()
    rows = rows_of(folder)
    last, previous = (folder / "checkpoints" / f"{name}.ckpt" for name in ("last", "previous"))
    _damage(last)
    damaged = previous.read_bytes()[:-1]
    given = "resume=auto" if resume == "auto" else f"resume={folder}"
    done = train(*settings, given)
    assert done.code == 0, done.err
    (told,) = (message for message in caplog.messages if message.startswith("skipped"))
    assert str(last) in told
    assert told.endswith(": continuing from previous.ckpt")
    assert "resumed  after step 2" in caplog.messages
    assert rows_of(folder) == rows
    assert json.loads((folder / "summary.json").read_text())["steps"] == 4
    (folder / "summary.json").unlink()
    for file in (last, previous):
        file.write_bytes(damaged)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    done = train(*settings, given)
    assert done.code == 1
    assert "nothing is left to continue from" in done.err
    assert len(done.err.splitlines()) == 1
    assert list((tmp_path / "runs").iterdir()) == [folder]
    assert all(path.read_bytes() == content for path, content in before.items())
