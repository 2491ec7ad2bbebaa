"""Signals while the ranks connect.

torch then waits for another rank, for minutes if that one is gone, and in C++: Python runs no
handler of a signal meanwhile.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from packformer.interruption import SIGNALS, Interrupted
from packformer.ranks.ending import end_at_once

_UNTIL_HEARD = 1.0  # seconds in which the main thread may end the process by itself


@contextmanager
def hears_signals() -> Iterator[None]:
    """Ends the process when a signal asks for it, even if the body blocks in C++.

    Python tells the signal to a thread of this function, too. If the body is not left soon, that
    thread ends the process: nothing has been trained that could be saved.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard, told = socket.socketpair()  # no pipe: Windows tells signals to sockets alone
    told.setblocking(False)  # as Python demands
    is_over = threading.Event()
    thread = threading.Thread(target=_end_at_signal, args=(heard, is_over), daemon=True)
    thread.start()
    former = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        is_over.set()
        signal.set_wakeup_fd(former)
        told.close()
        thread.join()
        heard.close()


def _end_at_signal(heard: socket.socket, is_over: threading.Event) -> None:
    while number := heard.recv(1):
        if number[0] in SIGNALS and not is_over.wait(_UNTIL_HEARD):
            end_at_once(Interrupted(number[0]).code)
