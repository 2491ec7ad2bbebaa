"""Records that cannot be written: training goes on without them, and the end of a run says so."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from lightning.pytorch.loggers import Logger

log = logging.getLogger(__name__)

_CALLS = ("log_metrics", "log_text", "log_hyperparams", "save", "finalize")
_lost: dict[str, int] = {}  # of this process's run: how often, by what was to be written


@contextmanager
def goes_on_without(name: str) -> Iterator[None]:
    """Has the body fail where a disk or a connection does; the first time is told.

    Errors of other kinds are raised.

    Args:
        name: of what it writes.
    """
    try:
        yield
    except Exception as error:
        if not _is_outside(error):
            raise
        if name not in _lost:
            log.warning("%s: %s: training goes on", name, " ".join(str(error).split()))
        _lost[name] = _lost.get(name, 0) + 1


def _is_outside(error: Exception) -> bool:
    """Whether a disk or a connection failed, and no code."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] == "wandb"


def outlived(logger: Logger) -> Logger:
    """``logger``, whose failures do not end the run."""
    name = type(logger).__name__
    for call in _CALLS:
        if hasattr(logger, call):
            setattr(logger, call, _outlived(getattr(logger, call), f"{name}.{call}"))
    return logger


def _outlived(call: Callable[..., Any], name: str) -> Callable[..., None]:
    @wraps(call)
    def attempt(*arguments: Any, **options: Any) -> None:
        with goes_on_without(name):
            call(*arguments, **options)

    return attempt


def forget_lost() -> None:
    """A new run begins."""
    _lost.clear()


def tell_lost() -> None:
    """Says at the end of a run what its records lack."""
    for name, times in _lost.items():
        log.warning("records  incomplete: %s failed %d times", name, times)
