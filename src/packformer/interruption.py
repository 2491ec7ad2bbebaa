"""Signals by which users and schedulers end a command, and the code that it then ends with."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)  # Windows has not all of them
)
"""Ctrl-C, a scheduler or ``kill``, a terminal that is gone, and what SLURM may send in advance."""

_BASE = 128  # as shells report signals
EXIT_CODES = frozenset(_BASE + number for number in SIGNALS)
"""Of processes that one of the signals ended."""


_ending = threading.Event()


class Interrupted(KeyboardInterrupt):
    """A signal asked the process to end, which it does from now on (``is_ending``).

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        _ending.set()

    @classmethod
    def by_code(cls, code: int) -> Interrupted:
        """That ended a process with this code, one of ``EXIT_CODES``."""
        return cls(code - _BASE)

    @property
    def code(self) -> int:
        """That the process ends with."""
        return _BASE + self.number


def is_ending() -> bool:
    """Whether this process ends because of a signal."""
    return _ending.is_set()


def interrupt(number: int, frame: FrameType | None) -> None:
    """Ends what is done, as Ctrl-C does by default.

    Raises:
        Interrupted: always.
    """
    raise Interrupted(number)


def exit_code(interruption: KeyboardInterrupt) -> int:
    """The code to end with; that of Ctrl-C where no signal is known."""
    if isinstance(interruption, Interrupted):
        return interruption.code
    return _BASE + signal.SIGINT


@contextmanager
def signals_heard_by(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Has the signals call ``handle`` during the body, in the main thread.

    A signal that is ignored stays ignored: ``nohup`` ignores SIGHUP, and shells ignore Ctrl-C for
    what they run in the background. So does SIGTERM after ``outlive_launcher``.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.getsignal(number) for number in SIGNALS}
    heard = {n: handler for n, handler in former.items() if handler not in (signal.SIG_IGN, None)}
    for number in heard:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in heard.items():
            outlived = number == signal.SIGTERM and signal.getsignal(number) is signal.SIG_IGN
            if not outlived:
                signal.signal(number, handler)


def outlive_launcher() -> None:
    """Ignores SIGTERM until this process ends, which it is about to do: all is saved.

    srun and torchrun send it as soon as another rank has ended, because of the same signal. It
    would change the exit code, by which a script knows whether to requeue the job.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
