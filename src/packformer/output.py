"""Standard output and error, which may be gone before the command has ended."""

from __future__ import annotations

import errno
import faulthandler
import io
import os
import signal
import sys
from typing import Any

_GONE = (errno.EPIPE, errno.EIO, errno.EBADF)  # a pipe, a terminal, a file
_EXIT_CLOSED = 128 + int(getattr(signal, "SIGPIPE", 13))


def outlive_output(*, end: bool = False) -> None:
    """Has no write to standard output or error fail. Call it before anything is printed.

    When what reads the output is gone (``| head -1``, a closed terminal), later output is dropped.
    A file descriptor that was closed at the start is opened to nothing: else the next file would
    have its number, and hold what is printed.

    Args:
        end: the command's only product is its output: the command ends quietly when that is gone,
            as Unix programs do, and fails where it cannot be written.
    """
    _open_missing()
    for number, name in ((1, "stdout"), (2, "stderr")):
        former: Any = getattr(sys, name)
        if former is getattr(sys, f"__{name}__"):  # else something has taken it
            setattr(sys, name, _stream(number, former, end=end and number == 1))


def show_crashes() -> None:
    """Has a crash in native code (a segmentation fault, an abort) show where it happened.

    Call it after ``outlive_output``, which makes sure that there is a standard error.
    """
    faulthandler.enable(2)


def _open_missing() -> None:
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number is free


def _stream(number: int, former: io.TextIOWrapper | None, *, end: bool) -> io.TextIOWrapper:
    raw = _Output(number, end=end)
    if former is None:
        return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", errors="replace")
    unbuffered: bool = former.write_through
    return io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),
        encoding=former.encoding,
        errors=former.errors,
        line_buffering=former.line_buffering,
        write_through=unbuffered,
    )


class _Output(io.FileIO):
    """A file descriptor that takes everything.

    Args:
        number: of the descriptor.
        end: the process ends when what reads it is gone; other errors are raised.
    """

    def __init__(self, number: int, *, end: bool) -> None:
        super().__init__(number, "wb", closefd=False)
        self._end = end

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno in _GONE:
                _send_to_nothing(self.fileno())
                if self._end:
                    raise SystemExit(_EXIT_CLOSED) from None
            elif self._end:
                self._end = False  # what is left over is dropped, so that the error is told
                raise OSError(error.errno, error.strerror, "standard output") from None
        return memoryview(data).nbytes


def _send_to_nothing(number: int) -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, number)
    os.close(nothing)
