"""A sweep in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from packformer.interruption import EXIT_CODES, Interrupted, signals_heard_by
from packformer.run.of_sweep import of_this_command


def run_sweep(command: Sequence[str]) -> int:
    """Runs it; signals reach it once, and it saves and ends. It ends if this process is killed.

    Args:
        command: arguments of ``packformer``.

    Returns:
        The exit code.

    Raises:
        Interrupted: if a signal ended it.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "packformer", *command],
        start_new_session=True,
        env=os.environ | of_this_command(),
    )
    with signals_heard_by(lambda number, _: process.send_signal(number)):
        code = process.wait()
    if code in EXIT_CODES:
        raise Interrupted.by_code(code)
    return code


def in_quotes(path: object) -> str:
    """A path as Hydra reads it whole."""
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'
