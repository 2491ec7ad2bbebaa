"""Loader processes: rows need no shared memory, and whatever ends a process ends the run."""

import errno
import os
import re
import signal
from itertools import islice

import pytest
import torch
from torch.utils.data import get_worker_info

from packformer.data import Copying, PackedDataModule, PackingSettings, rows, workers

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
