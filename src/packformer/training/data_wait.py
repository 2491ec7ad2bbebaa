"""How long a device waits for data."""

from __future__ import annotations

import time

import torch


class DataWait:
    """Seconds in which a device was idle because the next row had not arrived.

    An upper bound: if the device was done when the row arrived, the whole time since the end of the
    previous step counts; otherwise nothing does. The device is asked, not waited for.

    Attributes:
        seconds: waited so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._ended: float | None = None
        self._work: torch.cuda.Event | None = None

    def step_ended(self, device: torch.device) -> None:
        """All of a step's work was given to ``device``."""
        if device.type == "cuda":
            self._work = self._work or torch.cuda.Event()
            self._work.record(torch.cuda.current_stream(device))
        self._ended = time.perf_counter()

    def row_came(self) -> None:
        """The next row is on the device."""
        if self._ended is not None and (self._work is None or self._work.query()):
            self.seconds += time.perf_counter() - self._ended
        self._ended = None

    def forget(self) -> None:
        """Does not count the time since the last step: it went to something else, such as
        validation."""
        self._ended = None
