"""Torch's loader, where a process that dies ends the run between two steps, and nothing hangs."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

from torch._C import _error_if_any_worker_fails, _remove_worker_pids
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling
from torch.utils.data.dataloader import _BaseDataLoaderIter

from packformer.batch import PackedBatch
from packformer.data.workers import check_locks, leave_signals_to_parent

_is_waiting = False  # for a row


class WatchedLoader(DataLoader[PackedBatch]):
    """Loads whole rows in processes that may die.

    Torch raises an error as soon as a process dies, which may be in the middle of an optimizer
    step. Here it is raised while the next row is waited for: until then the training can be saved.

    Args:
        rows: a data set of rows.
        num_workers: processes; 0 for this one alone.
        pin_memory: whether rows are copied into pinned memory.
    """

    def __init__(self, rows: Any, *, num_workers: int, pin_memory: bool) -> None:
        super().__init__(
            rows,
            batch_size=None,
            num_workers=num_workers,
            pin_memory=pin_memory,
            worker_init_fn=leave_signals_to_parent,
        )

    def __iter__(self) -> Any:
        if not self.num_workers:
            return super().__iter__()
        check_locks(self.num_workers)  # torch leaves a loader that it made half
        rows = super().__iter__()
        _hear_deaths_while_waiting()
        return _watched(rows)


def _watched(rows: _BaseDataLoaderIter) -> Iterator[PackedBatch]:
    global _is_waiting
    while True:
        _is_waiting = True
        try:
            _error_if_any_worker_fails()
            row = next(rows)
        except StopIteration:
            return
        except BaseException:
            _abandon(rows)
            raise
        finally:
            _is_waiting = False
        yield row


def _abandon(rows: Any) -> None:
    """Ends the processes of a loader without waiting for anything.

    Torch would wait for a thread of its own. If a process died while it sent a row, that thread
    waits for the rest of the row for ever.
    """
    rows._shutdown = True
    for process in rows._workers:
        process.kill()
    _remove_worker_pids(id(rows))


def _hear_deaths_while_waiting() -> None:
    heard: Any = signal.getsignal(signal.SIGCHLD)
    if getattr(heard, "__module__", None) != signal_handling.__name__:
        return  # torch listens in the main thread only, and only once

    def hear(number: int, frame: FrameType | None) -> None:
        if _is_waiting:
            heard(number, frame)

    signal.signal(signal.SIGCHLD, hear)
