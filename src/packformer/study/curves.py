"""Losses of a run against steps, tokens, flops and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from packformer.study.run_record import Run

Series = NDArray[np.float64]
AXES = ("steps", "tokens", "flops", "seconds")
_UNITS = (("seconds", 1, 120), ("minutes", 60, 120 * 60), ("hours", 3600, np.inf))


@dataclass(frozen=True)
class Curve:
    """Points of a run.

    Attributes:
        steps: ascending, ``[P]``.
        losses: at each, ``[P]``.
        axes: names of ``AXES`` to what had been spent at each, ``[P]``; those that are known.
    """

    steps: Series
    losses: Series
    axes: dict[str, Series]


def curve_of(run: Run, name: str) -> Curve | None:
    """A curve of ``metrics.csv``.

    Time is that of training: counted tokens by their rate, without validations, saves and starts.

    Args:
        run: of which it is.
        name: ``val/loss`` or ``train/loss``.

    Returns:
        It; None if nothing was recorded.
    """
    points = sorted((row["step"], row[name]) for row in run.metrics if name in row)
    if not points:
        return None
    steps, losses = np.array(points).T
    return Curve(steps, losses, {"steps": steps, **_spent(run, steps)})


def mean_curve(curves: Sequence[Curve], axis: str) -> tuple[Series, Series] | None:
    """Mean over runs, at the steps that all of them have; None if there are none.

    Returns:
        What had been spent, and the losses.
    """
    known = [curve for curve in curves if axis in curve.axes]
    if not known or len(known) < len(curves):
        return None
    common = known[0].steps
    for curve in known[1:]:
        common = np.intersect1d(common, curve.steps)
    if not len(common):
        return None
    places = [np.searchsorted(curve.steps, common) for curve in known]
    x = np.mean([c.axes[axis][p] for c, p in zip(known, places, strict=True)], axis=0)
    y = np.mean([c.losses[p] for c, p in zip(known, places, strict=True)], axis=0)
    return x, y


def shown_axis(axis: str, curves: Sequence[Curve]) -> tuple[str, float]:
    """The label of an axis, and how many of ``axis`` are one of what it shows.

    Time is in seconds where the longest run takes less than two minutes, in hours where it takes
    two hours or more.

    Args:
        axis: of ``AXES``.
        curves: that are drawn together.
    """
    if axis != "seconds":
        return axis, 1
    longest = max(float(curve.axes[axis][-1]) for curve in curves)
    name, size = next((name, size) for name, size, end in _UNITS if longest < end)
    return f"{name} of training", size


def _spent(run: Run, steps: Series) -> dict[str, Series]:
    rows = sorted(
        (row for row in run.metrics if "data/tokens_seen" in row), key=lambda row: row["step"]
    )
    if not rows:
        return {}
    at = np.array([0.0, *(row["step"] for row in rows)])
    tokens = np.array([0.0, *(row["data/tokens_seen"] for row in rows)])
    found = {"tokens": tokens}
    if all("train/flops" in row for row in rows):
        found["flops"] = np.array([0.0, *(row["train/flops"] for row in rows)])
    rates = [row.get("train/tokens_per_second", 0.0) for row in rows]
    if all(rate > 0 for rate in rates):
        found["seconds"] = np.array([0.0, *np.cumsum(np.diff(tokens) / rates)])
    return {name: np.interp(steps, at, values) for name, values in found.items()}
