"""How long a device waits for data."""

from __future__ import annotations

import time

import torch


class DataWait:
    """Seconds in which a device had nothing to do because the next row was not there yet.

    An upper bound: where the device had done all its work when the row came, the whole time since
    the end of the step before counts; where it had not, nothing does. The device is asked, not
    waited for.

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
        """What comes between the two steps is no wait for data: validation."""
        self._ended = None
