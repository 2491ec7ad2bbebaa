"""When runs reach a loss: the tokens and the time of training until then."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from packformer.study.comparability import obstacle
from packformer.study.curves import Curve, Series, curve_of
from packformer.study.run_record import FINISHED, Run

MEASURE = "val/bits_per_byte"


class Spent(NamedTuple):
    """What a run had spent at each record.

    Attributes:
        steps: of the records, ascending from 0, ``[R]``.
        tokens: counted ones, ``[R]``.
        seconds: of training, without starts, ``[R]``.
        start_seconds: that starts took: compilation, and what else made the first steps slower.
    """

    steps: Series
    tokens: Series
    seconds: Series
    start_seconds: float


def spent_by(run: Run) -> Spent | None:
    """Tokens and time of a run; None if it recorded none.

    Records time training alone: validations and saves do not count. The first record, and the first
    after the run was resumed, hold the start too: they are taken to have trained as fast as the
    median of the others, and the rest of their time is the start's.

    Args:
        run: with ``data/tokens_seen`` and ``train/tokens_per_second`` in its metrics.
    """
    rows = sorted(
        (row for row in run.metrics if {"data/tokens_seen", "train/tokens_per_second"} <= set(row)),
        key=lambda row: row["step"],
    )
    if not rows or any(row["train/tokens_per_second"] <= 0 for row in rows):
        return None
    steps = np.array([0.0, *(row["step"] for row in rows)])
    tokens = np.array([0.0, *(row["data/tokens_seen"] for row in rows)])
    each, rates = np.diff(tokens), np.array([row["train/tokens_per_second"] for row in rows])
    resumed = run.figure("resumed_step")
    starts = {0, *([int(np.searchsorted(steps[1:], resumed, "right"))] if resumed > 0 else [])}
    steady = [rate for number, rate in enumerate(rates) if number not in starts]
    seconds, start_seconds = each / rates, 0.0
    for number in starts & set(range(len(rates))):
        if steady:
            own = min(seconds[number], each[number] / np.median(steady))
            start_seconds += float(seconds[number] - own)
            seconds[number] = own
    return Spent(steps, tokens, np.concatenate([[0.0], np.cumsum(seconds)]), start_seconds)


def crossing(losses: Sequence[float] | Series, target: float) -> float | None:
    """Where a curve first reaches a target.

    Args:
        losses: at each point.
        target: at most this.

    Returns:
        The number of the point, interpolated between two; 0 also if it was reached before the first
        one; None if it never is.
    """
    below = np.flatnonzero(np.asarray(losses) <= target)
    if not len(below):
        return None
    after = int(below[0])
    if after == 0:
        return 0.0
    high, low = losses[after - 1], losses[after]
    return after - 1 + float((high - target) / (high - low))


@dataclass(frozen=True)
class Result:
    """What one run says of its recipe.

    Attributes:
        recipe: its name.
        seed: of the run.
        target: bits per byte to reach; NaN if there is none.
        final: bits per byte at the end; NaN if there are none.
        best: the least of them at any validation.
        tokens: until the target; NaN if it was not reached.
        seconds: of training until then.
        token_ratio: of ``tokens`` to those of the first recipe with the same seed.
        time_ratio: of ``seconds``, likewise.
        at_most: whether the first validation was below the target already.
        total_tokens: of the whole run.
        total_seconds: of training, of the whole run.
        tokens_per_second: mean over it, without starts.
        start_seconds: of compilation and the like, beside that.
        told: why there is no figure, or what else must be said; empty if there is nothing.
    """

    recipe: str
    seed: int
    target: float = math.nan
    final: float = math.nan
    best: float = math.nan
    tokens: float = math.nan
    seconds: float = math.nan
    token_ratio: float = math.nan
    time_ratio: float = math.nan
    at_most: bool = False
    total_tokens: float = math.nan
    total_seconds: float = math.nan
    tokens_per_second: float = math.nan
    start_seconds: float = math.nan
    told: str = ""

    @property
    def reached(self) -> bool:
        """Whether the target was."""
        return self.tokens == self.tokens


@dataclass(frozen=True)
class Course:
    """A run's bits per byte against what it had spent.

    Attributes:
        losses: bits per byte at each validation, ``[P]``.
        tokens: until then, ``[P]``.
        seconds: of training until then, ``[P]``.
        spent: by the whole run.
    """

    losses: Series
    tokens: Series
    seconds: Series
    spent: Spent


def course_of(run: Run) -> Course | None:
    """The course of a run; None if it recorded none."""
    curve: Curve | None = curve_of(run, MEASURE)
    spent = spent_by(run)
    if curve is None or spent is None:
        return None
    tokens = np.interp(curve.steps, spent.steps, spent.tokens)
    return Course(curve.losses, tokens, np.interp(curve.steps, spent.steps, spent.seconds), spent)


def results_of(
    runs: Mapping[str, Mapping[int, Run]], seeds: Sequence[int], target: float | None
) -> list[Result]:
    """Every run beside that of the first recipe with the same seed.

    Args:
        runs: by recipe, then by seed; the first recipe is what others are compared with.
        seeds: that each should have.
        target: bits per byte; None for what the first recipe ends at, with the same seed.

    Returns:
        Recipe after recipe, in their order, one for each seed.
    """
    first = next(iter(runs))
    found = []
    for recipe, by_seed in runs.items():
        for seed in seeds:
            reference = runs[first].get(seed)
            found.append(_result(recipe, seed, by_seed.get(seed), reference, first, target))
    return found


def _result(
    recipe: str, seed: int, run: Run | None, reference: Run | None, first: str, target: float | None
) -> Result:
    if run is None:
        return Result(recipe, seed, told="was not started: the lines above say why")
    course = course_of(run)
    if run.state != FINISHED:
        return Result(recipe, seed, told=f"{run.state}: {run.error}".rstrip(": "))
    if course is None:
        return Result(recipe, seed, told=f"recorded no {MEASURE}")
    spent = course.spent
    made: dict[str, Any] = {
        "final": float(course.losses[-1]),
        "best": float(np.min(course.losses)),
        "total_tokens": float(spent.tokens[-1]),
        "total_seconds": float(spent.seconds[-1]),
        "tokens_per_second": float(spent.tokens[-1] / spent.seconds[-1]),
        "start_seconds": spent.start_seconds,
    }
    its = None if reference is None or reference.state != FINISHED else course_of(reference)
    if its is not None and reference is not None and (reason := obstacle(run, reference)):
        return Result(recipe, seed, **made, told=f"not compared: {reason}")
    if target is None and its is None:
        return Result(recipe, seed, **made, told=f"{first} did not finish, so there is no target")
    wanted = float(its.losses[-1]) if target is None and its is not None else float(target or 0.0)
    place = crossing(course.losses, wanted)
    if place is None:
        told = f"never reaches it; its best is {made['best']:.4f}"
        return Result(recipe, seed, wanted, **made, told=told)
    at = _at(course, place)
    base = None if its is None else crossing(its.losses, wanted)
    other = None if its is None or base is None else _at(its, base)
    at_most = place == 0 and float(course.losses[0]) < wanted
    return Result(
        recipe,
        seed,
        wanted,
        **made,
        tokens=at[0],
        seconds=at[1],
        token_ratio=math.nan if other is None else at[0] / other[0],
        time_ratio=math.nan if other is None else at[1] / other[1],
        at_most=at_most,
        told="reached before its first validation: at most so much" if at_most else "",
    )


def _at(course: Course, place: float) -> tuple[float, float]:
    points = np.arange(len(course.losses))
    return (
        float(np.interp(place, points, course.tokens)),
        float(np.interp(place, points, course.seconds)),
    )
