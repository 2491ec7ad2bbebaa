"""Compiled once: a compilation after the first is said aloud, with its cause."""

from __future__ import annotations

import logging

import torch

log = logging.getLogger(__name__)


class _Warn(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        log.warning("compiled again, which takes time: %s", " ".join(record.getMessage().split()))


def warn_of_recompilation() -> None:
    """Turns torch's own log of recompilations, which names the guard that failed, into warnings."""
    torch._logging.set_logs(recompiles=True)  # type: ignore[attr-defined]
    source = logging.getLogger("torch._dynamo.guards.__recompiles")
    source.handlers = [_Warn()]
    source.propagate = False
