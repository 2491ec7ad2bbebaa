"""The checkpoints before the last one."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest
import torch

from packformer.training.checkpoint import AtomicCheckpointIO, resumable_step, why_damaged
from packformer.training.former import FormerCheckpoints


def save(former: FormerCheckpoints, folder: Path, step: int) -> None:
    checkpoint = {
        "packformer": {},
        "loops": {},
        "global_step": step,
        "state_dict": {"w": torch.ones(5)},
        "PackedDataModule": {"stream": {}},
    }
    AtomicCheckpointIO().save_checkpoint(checkpoint, folder / "last.ckpt", former)


def kept(folder: Path) -> dict[str, int | None]:
    return {file.name: resumable_step(file) for file in sorted(folder.iterdir())}


@pytest.mark.parametrize("links", [True, False])
def test_so_many_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def no_link(*_: object) -> None:
        raise PermissionError

    if not links:
        monkeypatch.setattr(os, "link", no_link)
    former = FormerCheckpoints(tmp_path / "last.ckpt", 3, why_damaged)
    for step in range(1, 6):
        save(former, tmp_path, step)
    assert kept(tmp_path) == {"last.ckpt": 5, "previous-2.ckpt": 3, "previous.ckpt": 4}


def test_one_that_does_not_read_back_takes_no_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    last = tmp_path / "last.ckpt"
    former = FormerCheckpoints(last, 2, why_damaged)
    save(former, tmp_path, 1)
    save(former, tmp_path, 2)
    assert former._thread is not None
    former._thread.join()
    last.write_bytes(last.read_bytes()[:-9])
    save(FormerCheckpoints(last, 2, why_damaged), tmp_path, 3)  # as after a start
    assert kept(tmp_path) == {"last.ckpt": 3, "previous.ckpt": 1}
    assert f"{last} is not whole (" in caplog.text


def test_the_last_of_all_is_read_back_and_another_named(tmp_path: Path) -> None:
    last = tmp_path / "last.ckpt"
    former = FormerCheckpoints(last, 2, lambda file: "torn" if file == last else why_damaged(file))
    former.check()  # nothing was saved
    save(former, tmp_path, 1)
    with pytest.raises(OSError, match=r"last\.ckpt was saved and does .* \(torn\); no other is"):
        former.check()
    shutil.copyfile(last, tmp_path / "previous.ckpt")
    (tmp_path / "newer.ckpt").write_text("no archive")
    (tmp_path / "lost.ckpt").symlink_to("nowhere")
    with pytest.raises(OSError, match=r"\(torn\); .*/previous\.ckpt is whole: continue from it$"):
        former.check()


def test_a_save_that_fails_leaves_the_two_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = FormerCheckpoints(tmp_path / "last.ckpt", 2, why_damaged)
    save(former, tmp_path, 1)
    save(former, tmp_path, 2)
    before = kept(tmp_path)

    def full(checkpoint: object, file: object) -> None:
        raise RuntimeError("enforce fail: 413014 requested and 1984 written\nat ...")

    monkeypatch.setattr(torch, "save", full)
    told = r"cannot write .*last\.ckpt \(.*written\): .* MiB left, and 0\.0 MiB are needed$"
    with pytest.raises(OSError, match=told):
        save(former, tmp_path, 3)
    assert kept(tmp_path) == before


def test_an_interrupted_change_of_places_loses_none(tmp_path: Path) -> None:
    """A kill between both: the last one has both names."""
    former = FormerCheckpoints(tmp_path / "last.ckpt", 3, why_damaged)
    for step in (1, 2, 3):
        save(former, tmp_path, step)
    former.keep_last()
    assert kept(tmp_path) == {"last.ckpt": 3, "previous-2.ckpt": 2, "previous.ckpt": 3}
    save(former, tmp_path, 4)
    assert kept(tmp_path) == {"last.ckpt": 4, "previous-2.ckpt": 2, "previous.ckpt": 3}


def test_the_interpreter_waits_until_the_last_has_been_read(tmp_path: Path) -> None:
    """Killed amid torch's reader, a thread would take the process along (SIGABRT)."""
    begun, may_end = threading.Event(), threading.Event()

    def slow(file: Path) -> None:
        begun.set()
        assert may_end.wait(60)

    former = FormerCheckpoints(tmp_path / "last.ckpt", 2, slow)
    others = set(threading.enumerate())  # of tests before
    former.read_back()
    assert begun.wait(60)
    (thread,) = (
        one for one in threading.enumerate() if one.name == "read back" and one not in others
    )
    may_end.set()
    assert not thread.daemon
    former.join()
