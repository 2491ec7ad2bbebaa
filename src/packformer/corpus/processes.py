"""The processes that tokenize."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import forkserver
from typing import Any

from tokenizers import Tokenizer

from packformer.corpus.documents import Input
from packformer.corpus.encode import start_process


def process_context() -> Any:
    """Begins to start what processes are forked from, so that it is ready when they are wanted.

    Where there is such a server it imports once for all of them; this process, which may have
    threads, is never forked.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([start_process.__module__])
    try:
        forkserver.ensure_running()
    except OSError:  # its socket lies in a temporary folder whose name may be too long for one
        return multiprocessing.get_context("spawn")
    return context


@contextmanager
def process_pool(
    context: Any, workers: int, tokenizer: Tokenizer, input: Input, skip_invalid: bool
) -> Iterator[ProcessPoolExecutor]:
    initial = (tokenizer.to_str(), input.field, skip_invalid)
    pool = ProcessPoolExecutor(workers, context, start_process, initial)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
