"""Processes that run jobs of a sweep one after another, so that only the first job starts cold."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import IO, Any

from packformer.sweeps.kinds import Kind

BEGAN, FINISHED = "began", "finished"
"""What a worker says of a job. When a job fails, its process ends with the job's exit code."""
_MODULE = "packformer.command_line.worker"
_UNTIL_ENDED = 30.0  # seconds


@dataclass(frozen=True)
class Order:
    """What a worker is told to run.

    Attributes:
        arguments: of ``python -m train``.
        output: file of what the job prints; None for where the worker prints.
    """

    arguments: list[str]
    output: str | None


@dataclass(frozen=True)
class Outlook:
    """What a worker may expect, told before its first job is known.

    Attributes:
        kind: of the jobs.
        settings: that all jobs have, and defaults for those in which they differ; plain types.
    """

    kind: Kind
    settings: dict[str, Any]


class Worker:
    """A process that takes jobs of one kind.

    Args:
        kind: of its jobs.
        environment: of the process.
        output: file of what it prints until its first job; None for where this process prints.
        outlook: with which it imports torch before it is given a job; None if it waits for that.

    Attributes:
        kind: of its jobs.
        process: that runs them.
        began: how many of them did.
    """

    def __init__(
        self,
        kind: Kind,
        environment: Mapping[str, str],
        output: str | None,
        *,
        outlook: Outlook | None = None,
    ) -> None:
        self.kind = kind
        self._ahead = outlook is not None
        self.began = 0
        self._given = 0
        self._connection, theirs = Pipe()
        with theirs, opened(output) as log:
            # Without -P, modules in the current folder would be found before all others.
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", _MODULE],
                env=environment,
                stdin=theirs.fileno(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

        if outlook is not None:
            self._send(outlook)

    def give(self, order: Order) -> None:
        """Has it run a job. If it is dead, nothing happens: see ``refused``."""
        self._given += 1
        self._send(order)

    def _send(self, told: Order | Outlook) -> None:
        with suppress(OSError):
            self._connection.send(told)

    def has_finished(self) -> bool:
        """Whether it finished the job that it was given last."""
        with suppress(EOFError, OSError):
            while self._connection.poll():
                told = self._connection.recv()
                self.began += told == BEGAN
                if told == FINISHED:
                    return True
        return False

    @property
    def refused(self) -> bool:
        """Whether it died before it took the last job, and not because of that one.

        A process that cannot even start dies with its first job, which is then told as failed.
        """
        return self.began < self._given and (self._ahead or self.began > 0)

    def dismiss(self) -> None:
        """Has it end, if it runs no job; it is not waited for."""
        self._connection.close()
        if self._given == 0:
            self.process.kill()  # it may still import

    def wait(self) -> None:
        """Waits until it has ended, and kills it where it does not."""
        try:
            self.process.wait(_UNTIL_ENDED)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def opened(output: str | None) -> AbstractContextManager[IO[bytes] | None]:
    """The file for what a process prints, to append to; None for where this process prints."""
    return nullcontext() if output is None else open(output, "ab")


def orders() -> Connection:
    """In the process of a worker: where it is told what to run, and tells of it.

    Jobs read nothing from standard input.
    """
    connection = Connection(os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return connection
