"""Runs work that may crash its process, spread over several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

Result = TypeVar("Result")


def run_in_processes(
    function: Callable[..., Result], tasks: Sequence[tuple[object, ...]], workers: int
) -> Iterator[tuple[int, Result | None]]:
    """Results of ``function(*task)`` in the order in which they come, with the task's number.

    A process that dies takes its pool with it. Unfinished tasks run again in a new pool, or alone
    if a pool finished nothing.

    Args:
        function: that processes can import.
        tasks: its arguments.
        workers: processes at a time.

    Yields:
        Number and result; None for a task whose process died though it ran alone.
    """
    remaining = list(range(len(tasks)))
    alone = False
    while remaining:
        tried = remaining[:1] if alone else remaining
        done = []
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1 if alone else workers, context) as pool:
            futures = {pool.submit(function, *tasks[number]): number for number in tried}
            for future in as_completed(futures):
                try:
                    result: Result | None = future.result()
                except BrokenProcessPool:
                    if not alone:
                        continue
                    result = None
                done.append(futures[future])
                yield futures[future], result
        remaining = [number for number in remaining if number not in done]
        alone = alone or not done
