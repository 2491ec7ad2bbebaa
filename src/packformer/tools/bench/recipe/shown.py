"""The results as a table, a file and a picture."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from textwrap import wrap

import numpy as np
from rich.console import Console
from rich.table import Table

from packformer.study.svg import style_of
from packformer.tools.bench.recipe.race import Course, Result
from packformer.whole_file import replace_text, replacing

_EARLY = 0.15  # of the axis: losses fall so steeply there that the rest would look flat


def write_results(results: Sequence[Result], file: Path) -> None:
    """One line for each run; what is not known is empty."""
    lines = [
        {name: "" if value != value else value for name, value in asdict(result).items()}
        for result in results
    ]
    text = StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(lines[0]))
    writer.writeheader()
    writer.writerows(lines)
    replace_text(file, text.getvalue())


def print_results(results: Sequence[Result], first: str, title: str) -> None:
    """One row for each recipe, of several seeds their mean and range, and a sentence for each."""
    table = Table(title=title, title_justify="left")
    table.add_column("recipe")
    for column in ("target", "tokens to it", "ratio", "time to it", "ratio", "tokens/s", "start s"):
        table.add_column(column, justify="right")
    table.add_column("bits/byte at the end", justify="right")
    groups = by_recipe(results)
    for name, found in groups.items():
        table.add_row(
            name,
            shown(found, "target", "{:.4f}".format),
            shown(found, "tokens", "{:,.0f}".format),
            shown(found, "token_ratio", "{:.3f}".format),
            shown(found, "seconds", as_time),
            shown(found, "time_ratio", "{:.3f}".format),
            shown(found, "tokens_per_second", "{:,.0f}".format),
            shown(found, "start_seconds", "{:.0f}".format),
            shown(found, "final", "{:.4f}".format),
        )
    console = Console(width=150, highlight=False)
    console.print(table)
    for name, found in groups.items():
        console.print(sentence(name, found, first), soft_wrap=True, markup=False)
    if hint := reached_by_all(results):
        console.print(hint, soft_wrap=True, markup=False)


def by_recipe(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results of each recipe, in their order."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.recipe, []).append(result)
    return groups


def sentence(name: str, results: Sequence[Result], first: str) -> str:
    """What the runs of a recipe say of it."""
    reached = [one for one in results if one.reached]
    parts = []
    if reached and name == first:
        parts.append(f"reaches it after {shown(reached, 'tokens', '{:,.0f}'.format)} tokens")
    elif reached:
        parts.append(
            f"reaches it with {shown(reached, 'token_ratio', '{:.2f}'.format) or 'unknown'} of "
            f"{first}'s tokens and {shown(reached, 'time_ratio', '{:.2f}'.format) or 'unknown'} of "
            "its time"
        )
    if 0 < len(reached) < len(results):
        parts[0] += f" with {len(reached)} of {len(results)} seeds"
    parts += [f"seed {one.seed} {one.told}" for one in results if one.told]
    return f"{name}: {'; '.join(parts)}"


def reached_by_all(results: Sequence[Result]) -> str:
    """Where some did not reach the target, one that all did; empty if there is nothing to say."""
    trained = [one for one in results if not math.isnan(one.best)]
    if len(trained) < 2 or all(one.reached for one in trained):
        return ""
    worst = math.ceil(max(one.best for one in trained) * 1e4) / 1e4
    return f"all of these runs reach {worst:.4f}: --target {worst:.4f} compares them there"


def shown(results: Sequence[Result], name: str, form: Callable[[float], str]) -> str:
    """Mean of a figure over the runs that have it, and the range of several: ``2 (1 to 3)``."""
    values = [value for one in results if not math.isnan(value := getattr(one, name))]
    if not values:
        return ""
    mean = form(float(np.mean(values)))
    low, high = form(min(values)), form(max(values))
    return mean if low == high else f"{mean} ({low} to {high})"


def as_time(seconds: float) -> str:
    """Such as ``1:02:03`` and ``2:03``; tenths below a minute."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def draw_courses(
    courses: Mapping[str, Sequence[Course]], results: Sequence[Result], title: str, file: Path
) -> None:
    """Bits per byte against tokens and time, a line for each run, with the targets."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(9, 4), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    pair = figure.subplots(1, 2, sharey=True)
    every = [course for of in courses.values() for course in of]
    targets = sorted({one.target for one in results if not math.isnan(one.target)})
    for axes, label, axis in (
        (pair[0], "tokens", lambda course: course.tokens),
        (pair[1], "minutes of training", lambda course: course.seconds / 60),
    ):
        for number, (name, of) in enumerate(courses.items()):
            for place, course in enumerate(of):
                axes.plot(
                    axis(course),
                    course.losses,
                    label=name if place == 0 else None,
                    linewidth=1.4,
                    **style_of(number),
                )
        for target in targets:
            axes.axhline(target, color="0.5", linewidth=0.7, linestyle="dotted")
        axes.set_xlabel(label)
        axes.spines[["top", "right"]].set_visible(False)
    late = [loss for course in every for loss in _late(course)] + targets
    if late:
        room = 0.05 * (max(late) - min(late)) or 0.01
        pair[0].set_ylim(min(late) - room, max(late) + room)
        pair[0].legend(frameon=False)
    pair[0].set_ylabel("bits per byte")
    pair[0].xaxis.set_major_formatter(EngFormatter(sep=""))
    figure.suptitle("\n".join(wrap(title, 110)), fontsize=9)
    with replacing(file) as unfinished:
        canvas.print_png(unfinished)


def _late(course: Course) -> list[float]:
    """Losses after the first part of the run; all of a run with few points."""
    kept = course.tokens >= _EARLY * course.tokens[-1]
    return [float(loss) for loss in course.losses[kept]]
