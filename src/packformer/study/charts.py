"""The pictures of a study."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

import numpy as np

from packformer.study.comparison import LOSS, NOT_COMPARED, REFERENCE, Comparison, finished
from packformer.study.curves import AXES, Curve, curve_of, mean_curve, shown_axis
from packformer.study.ladder import Ladder
from packformer.study.svg import INK, MUTED, chart, style_of

_EARLY = 0.15  # of the axis: losses fall so steeply there that the rest would look flat
_UNITS = {"T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3}


def draw_differences(found: Sequence[Comparison], numbers: Mapping[str, int]) -> str:
    """Differences from the reference with their intervals, and that of each seed; may be empty."""
    shown = [one for one in found if one.verdict not in (REFERENCE, NOT_COMPARED) and one.seeds]
    if not shown:
        return ""
    reference = {one.variant.size: one for one in found if one.verdict == REFERENCE}
    with chart("Difference of each variant from the reference", 0.9 + 0.42 * len(shown)) as (
        axes,
        made,
    ):
        for place, one in enumerate(shown):
            colour = style_of(numbers[one.variant.label])["color"]
            mean = one.difference.mean
            if math.isfinite(mean.low):
                axes.plot([mean.low, mean.high], [place, place], color=colour, linewidth=2.4)
            base = {r.seed: r.figure(LOSS) for r in finished(reference[one.variant.size].variant)}
            runs = [r for r in finished(one.variant) if r.seed in base]
            dots = [r.figure(LOSS) - base[r.seed] for r in runs]
            axes.plot(dots, [place] * len(dots), "o", color=colour, markersize=3.5, alpha=0.45)
            axes.plot([mean.value], [place], "D", color=colour, markersize=6)
        axes.axvline(0, color=INK, linewidth=1)
        names = ["\n".join(wrap(one.variant.name, 22)) for one in shown]
        axes.set_yticks(range(len(shown)), names, color=INK)
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        # A page would draw several ordinary spaces as one.
        axes.set_xlabel(f"loss minus that of the reference\n← better{chr(0xA0) * 8}worse →")
    return made[0]


def draw_curves(found: Sequence[Comparison], numbers: Mapping[str, int], name: str) -> list[str]:
    """Losses against everything that is known to have been spent."""
    curves = {one.variant.name: _curves(one, name) for one in found}
    pictures = []
    for axis in AXES:
        lines = [(one, curves[one.variant.name]) for one in found if curves[one.variant.name]]
        if not lines or not all(axis in c.axes for _, several in lines for c in several):
            continue
        what = "validation" if name == LOSS else "training"
        drawn = [curve for _, several in lines for curve in several]
        label, unit = shown_axis(axis, drawn)
        with chart(f"{what} loss against {label}") as (axes, made):
            for one, several in lines:
                style = style_of(numbers[one.variant.label])
                for curve in several if len(several) > 1 else ():
                    spent = curve.axes[axis] / unit
                    axes.plot(spent, curve.losses, **style, linewidth=0.6, alpha=0.3)
                if (mean := mean_curve(several, axis)) is not None:
                    axes.plot(mean[0] / unit, mean[1], **style, linewidth=1.6)
            _frame(axes, drawn, axis, unit)
            axes.set_xlabel(label)
            axes.set_title(f"{what} loss")
            axes.xaxis.get_major_locator().set_params(integer=axis in ("steps", "tokens"))
            axes.xaxis.set_major_formatter(_short)
        pictures.append(made[0])
    return pictures


def draw_difference_over_training(found: Sequence[Comparison], numbers: Mapping[str, int]) -> str:
    """Paired differences of the validation loss against steps; may be empty."""
    bases = {
        one.variant.size: {run.seed: curve_of(run, LOSS) for run in finished(one.variant)}
        for one in found
        if one.verdict == REFERENCE
    }
    lines = []
    for one in found:
        base = bases.get(one.variant.size, {})
        if one.verdict in (REFERENCE, NOT_COMPARED):
            continue
        pairs = [(curve_of(run, LOSS), base.get(run.seed)) for run in finished(one.variant)]
        several = [_minus(mine, its) for mine, its in pairs if mine is not None and its is not None]
        if (mean := mean_curve(several, "steps") if several else None) is not None:
            lines.append((one, several, mean))
    if not lines:
        return ""
    with chart("Difference from the reference over training") as (axes, made):
        for one, several, mean in lines:
            style = style_of(numbers[one.variant.label])
            for curve in several if len(several) > 1 else ():
                axes.plot(curve.steps, curve.losses, **style, linewidth=0.6, alpha=0.3)
            axes.plot(*mean, **style, linewidth=1.6)
        axes.axhline(0, color=INK, linewidth=1)
        axes.set_title("validation loss minus the reference's")
        axes.set_xlabel("steps")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.xaxis.set_major_formatter(_short)
    return made[0]


def draw_positions(found: Sequence[Comparison], numbers: Mapping[str, int], part: str) -> str:
    """Loss by position in the document, or by its length; may be empty.

    Args:
        found: variants.
        numbers: of their labels.
        part: ``by_position`` or ``by_length``.
    """
    lines, trained = [], set()
    for one in found:
        measured = [r.positions for r in finished(one.variant) if r.positions]
        spans: dict[int, list[float]] = {}
        for positions in measured:
            trained.add(int(positions["trained_length"]))
            for span in positions[part]:
                spans.setdefault(int(span["last"]), []).append(float(span["loss"]))
        whole = {last: np.mean(v) for last, v in spans.items() if len(v) == len(measured)}
        if whole:
            lines.append((one, sorted(whole.items())))
    if not lines:
        return ""
    what = "position in the document" if part == "by_position" else "tokens of the document"
    with chart(f"Loss by {what}") as (axes, made):
        for one, points in lines:
            style = style_of(numbers[one.variant.label])
            axes.plot(*zip(*points, strict=True), **style, linewidth=1.6, marker="o", markersize=3)
        axes.set_xscale("log", base=2)
        for length in trained:
            axes.axvline(length, color=MUTED, linewidth=1, linestyle=(0, (2, 2)))
        middle = math.sqrt(math.prod(axes.get_xlim()))
        for length in sorted(trained):
            side, away = ("right", -3) if length > middle else ("left", 3)  # where there is room
            axes.annotate(
                "trained to here", (length, 1), (away, 0), axes.get_xaxis_transform(),
                "offset points", ha=side, va="top", color=MUTED, fontsize=8,
            )  # fmt: skip
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_title("loss, nats per token")
        axes.set_xlabel(what)
    return made[0]


def draw_ladder(found: Sequence[Ladder], numbers: Mapping[str, int]) -> str:
    """Losses against parameters with the laws; may be empty."""
    shown = [ladder for ladder in found if ladder.rungs]
    if not shown:
        return ""
    with chart("Loss against parameters, with the fitted power laws", 3.0) as (axes, made):
        for ladder in shown:
            style = style_of(numbers[ladder.label])
            sizes = [rung.parameters for rung in ladder.rungs]
            if ladder.law is not None:
                grid = np.geomspace(min(sizes), max(sizes), 60)
                axes.plot(grid, ladder.law(grid), **style, linewidth=1.4)
            for rung in ladder.rungs:
                face = "none" if rung.held_out else style["color"]
                axes.plot(
                    [rung.parameters], [rung.mean], "o", color=style["color"], markersize=6,
                    markerfacecolor=face,
                )  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        for place in (axes.xaxis, axes.yaxis):
            place.set_minor_formatter("")
        axes.set_xticks(sorted({r.parameters for one in shown for r in one.rungs}))
        losses = [r.mean for one in shown for r in one.rungs]
        axes.set_yticks(np.linspace(min(losses), max(losses), 4))
        axes.xaxis.set_major_formatter(_short)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.2f}")
        axes.set_title("validation loss")
        axes.set_xlabel("parameters (open: held out)")
    return made[0]


def _curves(one: Comparison, name: str) -> list[Curve]:
    curves = [curve_of(run, name) for run in finished(one.variant)]
    return [curve for curve in curves if curve is not None]


def _minus(one: Curve, other: Curve) -> Curve:
    steps, mine, its = np.intersect1d(one.steps, other.steps, return_indices=True)
    return Curve(steps, one.losses[mine] - other.losses[its], {"steps": steps})


def _frame(axes: Any, curves: Sequence[Curve], axis: str, unit: float) -> None:
    """Leaves out the steep beginning."""
    end = max(float(curve.axes[axis][-1]) for curve in curves)
    late = [
        value
        for curve in curves
        for x, value in zip(curve.axes[axis], curve.losses, strict=True)
        if x >= _EARLY * end and math.isfinite(value)
    ]
    if len(late) < 2:
        return
    low, high = min(late), max(late)
    room = 0.04 * (high - low) or 0.01
    axes.set_ylim(low - room, high + room)
    axes.set_xlim(0, end / unit * 1.02)


def _short(value: float, _: int = 0) -> str:
    for unit, size in _UNITS.items():
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}" if value < 1e15 else f"{value:.1e}"
    return f"{value:.3g}"
