"""``packformer plan``: what packing saves on the user's own documents."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from packformer.data import PackingSettings
from packformer.data.order import all_lengths
from packformer.data.plan import Cost, costs
from packformer.data.source import DataSet
from packformer.settings import check_whole

_BINS = 16
_BAR = 40  # characters


@dataclass(frozen=True)
class Sizes:
    """Of the model that the flops are counted for: matrices of ``12 L D^2 + V D`` weights.

    Attributes:
        num_layers: L.
        width: D.
        vocab_size: V.
    """

    num_layers: int = 12
    width: int = 768
    vocab_size: int = 50_304

    @property
    def weights(self) -> int:
        """Of all matrices."""
        return 12 * self.num_layers * self.width**2 + self.vocab_size * self.width


def run_plan(
    data: DataSet,
    settings: PackingSettings,
    sizes: Sizes,
    batch: int,
    folder: Path,
) -> None:
    """Prints a histogram and a table, and writes ``plan.csv`` and ``plan.png``.

    Raises:
        ValueError: if the data or a number cannot be used.
    """
    check_whole("batch", batch, at_least=1)
    splits = data.prepare()
    lengths = [n for source in (splits.train, splits.validation) for n in all_lengths(source)]
    found = costs(lengths, settings, batch=batch)
    console = Console(width=130)
    console.print(splits.description, highlight=False)
    _print_histogram(lengths, console)
    ours = found[-1].flops_per_token(sizes.weights, sizes.width, sizes.num_layers)
    rows = [_row(cost, sizes, ours) for cost in found]
    _print(rows, settings, sizes, console)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "plan.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    _draw(lengths, found, settings, folder / "plan.png")
    console.print(f"  {folder}", soft_wrap=True)


def _row(cost: Cost, sizes: Sizes, ours: float) -> dict[str, str | int | float]:
    flops = cost.flops_per_token(sizes.weights, sizes.width, sizes.num_layers)
    return {
        "way": cost.name,
        "fill": cost.fill,
        "tokens_wasted": cost.computed - cost.useful,
        "documents_cut": cost.cut,
        "tokens_dropped": cost.dropped,
        "attention_pairs": cost.pairs,
        "attention_flops": 12 * sizes.width * sizes.num_layers * cost.pairs,
        "flops_per_token": flops,
        "relative_speed": ours / flops,
    }


def _print_histogram(lengths: Sequence[int], console: Console) -> None:
    edges = np.unique(np.geomspace(1, max(lengths) + 1, _BINS + 1).round().astype(int))
    counts, _ = np.histogram(lengths, edges)
    console.print(
        f"{len(lengths):,} documents, {sum(lengths):,} tokens: median {np.median(lengths):,.0f}, "
        f"mean {np.mean(lengths):,.0f}, longest {max(lengths):,}",
        highlight=False,
    )
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        bar = "█" * round(_BAR * count / max(counts))
        console.print(f"  {low:>9,} to {high - 1:>9,} tokens {count:>9,} {bar}", highlight=False)


def _print(
    rows: list[dict[str, str | int | float]],
    settings: PackingSettings,
    sizes: Sizes,
    console: Console,
) -> None:
    table = Table(
        title=f"rows of {settings.row_length:,} tokens, documents of at most "
        f"{settings.max_seqlen:,}; speed by flops, {sizes.num_layers} layers of {sizes.width}",
        title_justify="left",
    )
    table.add_column("")
    for column in ("fill", "wasted", "cut", "dropped", "attention flops", "speed"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            str(row["way"]),
            f"{row['fill']:.2%}",
            *(f"{row[name]:,}" for name in ("tokens_wasted", "documents_cut", "tokens_dropped")),
            f"{row['attention_flops']:.2e}",
            f"{row['relative_speed']:.2f}",
        )
    console.print(table)


def _draw(lengths: Sequence[int], found: list[Cost], settings: PackingSettings, file: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [cost for cost in found if cost.rows]
    figure = Figure(figsize=(9, 2.2 + 1.7 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1 + len(shown), 1)
    axes[0].hist(lengths, np.geomspace(1, max(lengths) + 1, 50), color="0.6")
    axes[0].set(xscale="log", xlabel="tokens of a document", ylabel="documents")
    axes[0].axvline(settings.max_seqlen, color="#d1495b", linewidth=1)
    axes[0].text(settings.max_seqlen, axes[0].get_ylim()[1], " cut here", color="#d1495b", va="top")
    for place, cost in zip(axes[1:], shown, strict=True):
        for number, row in enumerate(cost.rows[:8]):
            starts = np.cumsum([0, *row[:-1]])
            colors = [f"C{(number + i) % 10}" for i in range(len(row))]
            place.barh([number] * len(row), row, left=starts, color=colors, edgecolor="white")
        place.set(
            xlim=(0, settings.row_length), yticks=[], title=f"{cost.name}, {cost.fill:.1%} full"
        )
        place.invert_yaxis()
    axes[-1].set_xlabel("tokens of a row; each bar a document or a piece of one")
    for place in axes:
        place.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=130)
