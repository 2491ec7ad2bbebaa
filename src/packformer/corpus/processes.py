"""The processes that tokenize."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import forkserver
from typing import Any

from packformer.corpus.documents import Raw
from packformer.corpus.encode import Encoded, Encoder, start_process


class _ThisProcess(Executor):
    """Encodes what it is given at once, in this process."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def submit(self, _: Any, batch: Sequence[Raw], /) -> Future[Encoded]:  # type: ignore[override]
        future: Future[Encoded] = Future()
        try:
            future.set_result(self._encoder(batch))
        except ValueError as error:
            future.set_exception(error)
        return future


class Processes:
    """Where batches are encoded: in some processes, or in this one.

    This object starts the server process that workers are forked from. The server imports
    everything once for all of them. This process is never forked, because it may have threads.

    Args:
        workers: how many; 0 for this process alone, which starts at once.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._context = _context() if workers else None

    @property
    def batches_ahead(self) -> int:
        """Batches that are worth handing over before the first is back."""
        return 2 * self._workers

    @contextmanager
    def executor(self, *arguments: Any) -> Iterator[Executor]:
        """Takes ``submit(encode, batch)``.

        Args:
            arguments: of ``Encoder``.
        """
        if not self._workers:
            yield _ThisProcess(Encoder(*arguments))
            return
        pool = ProcessPoolExecutor(self._workers, self._context, start_process, arguments)
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


def _context() -> Any:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([start_process.__module__])
    try:
        forkserver.ensure_running()
    except OSError:  # its socket lies in a temporary folder whose name may be too long for one
        return multiprocessing.get_context("spawn")
    return context
