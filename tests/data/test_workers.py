"""Loader processes: rows need no shared memory, and whatever ends a process ends the run."""

import errno
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from itertools import islice

import pytest
import torch
from torch.utils.data import get_worker_info

from packformer.data import Copying, PackedDataModule, PackingSettings, rows, workers
from packformer.interruption import SIGNALS

SETTINGS = PackingSettings(128, 40, lookahead=32)


def test_rows_come_whole_where_shared_memory_has_no_room(monkeypatch):
    def full(*_):
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    for name in ("_share_fd_cpu_", "_share_filename_cpu_"):
        monkeypatch.setattr(torch.UntypedStorage, name, full)
    loader = PackedDataModule(Copying(), SETTINGS, num_workers=2).train_dataloader()
    loader.timeout = 30  # what has no room was waited for without end
    alone = PackedDataModule(Copying(), SETTINGS).train_dataloader()
    for sent, made in zip(islice(loader, 5), alone, strict=False):
        for name in ("tokens", "targets"):
            assert getattr(sent, name).dtype == torch.int64
            assert torch.equal(getattr(sent, name), getattr(made, name))
        assert sent.layout.cu_seqlens.dtype == made.layout.cu_seqlens.dtype
        assert torch.equal(sent.layout.cu_seqlens, made.layout.cu_seqlens)
        assert torch.equal(sent.layout.position_ids, made.layout.position_ids)
        assert sent.layout.position_ids.dtype == made.layout.position_ids.dtype
        assert sent.layout.max_seqlen == made.layout.max_seqlen
        assert (sent.num_tokens, sent.num_targets) == (made.num_tokens, made.num_targets)
        assert (sent.lengths, sent.packer_state) == (made.lengths, made.packer_state)
        sent.tokens[0, 0] = 1  # is writable


def test_no_room_for_the_locks_of_the_processes_is_told_before_anything_is_read(monkeypatch):
    made = []

    def lock():
        made.append(object())
        if len(made) > 16:  # pages of 64 KiB
            raise OSError(errno.ENOSPC, "No space left on device")
        return made[-1]

    monkeypatch.setattr(workers.multiprocessing, "Lock", lock)
    with pytest.raises(
        ValueError,
        match=r"loader.num_workers \(2\): the processes' 28 locks do not fit into /dev/shm "
        r"\(No space left on device\): enlarge it \(docker run --shm-size=1g\), or set",
    ):
        PackedDataModule(None, SETTINGS, num_workers=2)


def ends_in_a_process(monkeypatch, end):
    """Has a loader process meet ``end`` when it makes a row."""
    collate_row = rows.collate_row

    def ending(*arguments, **options):
        if get_worker_info() is not None:
            end()
        return collate_row(*arguments, **options)

    monkeypatch.setattr(rows, "collate_row", ending)


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def out_of_data():
    raise ValueError("shard: byte 7:\nis wrong")


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (
            killed,
            r"error: a loader process \(pid \d+\) died.*: if the machine ran out of memory, low",
        ),
        (out_of_data, r"error: shard: byte 7: is wrong \(traceback: "),
    ],
)
def test_the_end_of_a_process_ends_the_run_with_one_line(train, small, monkeypatch, end, message):
    ends_in_a_process(monkeypatch, end)
    finished = train(*small, "loader.num_workers=1", "logger=csv")
    assert finished.code == 1
    (line,) = [line for line in finished.err.splitlines() if "error" in line]
    assert re.match(message, line)
    assert "Traceback" not in finished.err


MORE_STEPS = ("trainer.max_steps=12", "trainer.validate_every_n_steps=12")


def test_a_process_that_is_killed_costs_no_step(train, small, monkeypatch, tmp_path, caplog):
    """Whenever it is killed, the steps until then are saved."""
    rows_made = iter(range(6))

    def killed_later():
        if next(rows_made, None) is None:
            killed()

    ends_in_a_process(monkeypatch, killed_later)
    finished = train(*small, "loader.num_workers=1", *MORE_STEPS)
    assert finished.code == 1
    (folder,) = (tmp_path / "runs").iterdir()
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert f"saved after step {saved['global_step']}" in caplog.text
    assert 1 <= saved["global_step"] <= 6


def loaded(num_workers=2):
    return iter(PackedDataModule(Copying(), SETTINGS, num_workers=num_workers).train_dataloader())


def test_a_death_is_told_while_a_row_is_waited_for_and_not_within_a_step():
    rows = loaded()
    next(rows)
    (process, *_) = multiprocessing.active_children()
    process.kill()
    time.sleep(0.2)  # a step, in which torch would raise
    with pytest.raises(RuntimeError, match="is killed by signal: Killed"):
        next(rows)
    for process in multiprocessing.active_children():
        process.join(10)
    assert not multiprocessing.active_children()


def test_processes_work_on_when_a_signal_reaches_all():
    rows = loaded()
    next(rows)
    for number in SIGNALS:
        for process in multiprocessing.active_children():
            sender = f"import os; os.kill({process.pid}, {number})"
            subprocess.run([sys.executable, "-c", sender], check=True)
    for _ in range(20):
        next(rows)
    (process, *_) = multiprocessing.active_children()
    process.terminate()  # as torch ends one that hangs
    process.join(10)
    assert process.exitcode == 0
    rows.close()


def test_locks_that_no_longer_fit_are_told_when_processes_start(monkeypatch):
    module = PackedDataModule(Copying(), SETTINGS, num_workers=2)

    def lock():
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(workers.multiprocessing, "Lock", lock)
    with pytest.raises(ValueError, match=r"num_workers \(2\): the processes' 14 locks do not fit"):
        iter(module.train_dataloader())
