"""Runs jobs of a sweep one after another, each as if it were alone in the process."""

from __future__ import annotations

import gc
import os
import sys
import time
import warnings
from contextlib import suppress
from importlib.util import find_spec
from multiprocessing.connection import Connection

from packformer.command_line.checks import check_configuration
from packformer.command_line.imports import import_training
from packformer.command_line.main import main
from packformer.ranks.ending import end_with_parent
from packformer.run.process_state import kept_environment
from packformer.run.user_errors import USER_ERRORS
from packformer.sweeps.worker import BEGAN, FINISHED, Order, Outlook


def serve(orders: Connection, began: float | None) -> None:
    """Runs each job that it is told to, until there are no more.

    If it is told before what to expect, it imports what trains meanwhile.

    A job that fails or is interrupted ends the process, with its exit code: an error may leave a
    GPU that no longer computes, or memory that is not freed.

    Args:
        orders: where ``Order``s come from, and ``BEGAN`` and ``FINISHED`` go to.
        began: when the first job's start did, as ``time.perf_counter`` counts; None for when the
            job is taken, as of the others.

    Raises:
        SystemExit: if a job failed.
    """
    end_with_parent()
    first = _next(orders)
    if isinstance(first, Outlook):
        _import_ahead(first)
    found = find_spec("train")
    assert found is not None
    order = _next(orders) if isinstance(first, Outlook) else first
    while isinstance(order, Order):
        orders.send(BEGAN)
        start, began = began or time.perf_counter(), None
        if order.output is not None:
            _print_to(order.output)
        with kept_environment(), warnings.catch_warnings():  # each job is warned anew
            sys.argv = [str(found.origin), *order.arguments]
            main(began=start)
        _flush()
        gc.collect()  # a trainer and its module refer to each other
        orders.send(FINISHED)
        order = _next(orders)


def _import_ahead(outlook: Outlook) -> None:
    """Imports what trains, unless the jobs will rather be refused, for which nothing is needed."""
    with suppress(*USER_ERRORS):
        check_configuration(outlook.settings)
        kind = outlook.kind
        import_training(kind.deterministic, None if kind.own_code else outlook.settings)


def _next(orders: Connection) -> Order | Outlook | None:
    """The next job; first perhaps what to expect; None if there are no more."""
    try:
        order: Order | Outlook = orders.recv()
    except (EOFError, ConnectionResetError):
        return None
    return order


def _print_to(file: str) -> None:
    _flush()
    number = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for standard in (1, 2):
        os.dup2(number, standard)
    os.close(number)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
