"""How long a run takes to the end of its first step, stage by stage."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

_LOADED = time.perf_counter()
_STAT = Path("/proc/self/stat")
FIRST_STEP = "compilation and step"
"""The last stage."""
_START_TIME = 19  # field after the command's name, in clock ticks since the machine was started


class StartTimes:
    """The stages of a start.

    Args:
        began: when the first one did, as ``time.perf_counter`` counts.

    Attributes:
        seconds: of each stage that ended, in that order.
    """

    def __init__(self, began: float) -> None:
        self.seconds: dict[str, float] = {}
        self._last = began

    def ended(self, stage: str) -> None:
        """Everything since the last stage was this one."""
        now = time.perf_counter()
        self.seconds[stage] = now - self._last
        self._last = now

    @property
    def total(self) -> float | None:
        """Seconds of all stages; None before the last has ended."""
        return sum(self.seconds.values()) if FIRST_STEP in self.seconds else None

    def __str__(self) -> str:
        stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in self.seconds.items())
        return f"{sum(self.seconds.values()):.1f} s to the end of the first step: {stages}"


def process_began() -> float:
    """When this process was started, as ``time.perf_counter`` counts.

    Where the system does not say: when this module was imported.
    """
    with suppress(OSError, ValueError, IndexError, AttributeError):  # Linux alone has all of them
        fields = _STAT.read_text(encoding="utf-8").rpartition(")")[2].split()
        started = int(fields[_START_TIME]) / os.sysconf("SC_CLK_TCK")
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - started
        return time.perf_counter() - age
    return _LOADED
