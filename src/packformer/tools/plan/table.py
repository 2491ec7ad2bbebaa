"""``packformer plan``: what packing saves on the user's own documents."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from packformer.counted import counted
from packformer.data import PackingSettings
from packformer.data.order import all_lengths
from packformer.data.source import DataSet
from packformer.model.flops import attention_flops
from packformer.settings import check_whole
from packformer.tools.plan.costs import Cost, costs
from packformer.tools.plan.picture import draw_plan

_BINS = 16
_BAR = 40  # characters
_FEW_ROWS = 20  # so few that the last counts
_COLUMNS = (
    *("kept", "full", "padding", "documents cut", "tokens dropped"),
    *("attention flops", "speed"),
)


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

    Speeds are relative to that of ``settings.policy``.

    Raises:
        ValueError: if the data or a number cannot be used.
    """
    check_whole("batch", batch, at_least=1)
    splits = data.prepare()
    lengths = np.concatenate([all_lengths(splits.train), all_lengths(splits.validation)])
    found = costs(lengths, settings, batch=batch)
    console = Console(width=130)
    console.print(splits.description, highlight=False)
    _print_histogram(lengths, console)
    chosen = next(cost for cost in found if cost.policy == settings.policy)
    ours = chosen.flops_per_token(sizes.weights, sizes.width, sizes.num_layers)
    rows = [_row(cost, sizes, ours) for cost in found]
    _print(rows, settings, sizes, console)
    if lengths.sum() < settings.row_length:
        console.print(
            f"  all documents together are shorter than a row of {settings.row_length:,} tokens: "
            "concatenation drops what does not fill one",
            highlight=False,
        )
    num_rows = -(-chosen.computed // settings.row_length)
    if num_rows < _FEW_ROWS and chosen.fill < 1:
        console.print(
            f"  packing made {counted(num_rows, 'row')}: the last, partly full, lowers the fill "
            "of so few; in training it is filled from the next epoch",
            highlight=False,
        )
    if any(cost.estimated for cost in found):
        console.print("  fill of packed rows: that of the first ones")
    with (folder / "plan.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    draw_plan(lengths, found, settings.row_length, settings.max_seqlen, folder / "plan.png")
    console.print(f"written to {folder}", soft_wrap=True, markup=False)


def _row(cost: Cost, sizes: Sizes, ours: float) -> dict[str, str | int | float]:
    flops = cost.flops_per_token(sizes.weights, sizes.width, sizes.num_layers)
    return {
        "way": cost.name,
        "kept": cost.kept,
        "fill": cost.fill,
        "padding": cost.computed - cost.useful,
        "documents_cut": cost.cut,
        "tokens_dropped": cost.dropped,
        "attention_pairs": cost.pairs,
        "attention_flops": attention_flops(sizes.width * sizes.num_layers * cost.pairs),
        "flops_per_token": flops,
        "relative_speed": ours / flops,
    }


def _print_histogram(lengths: NDArray[np.int64], console: Console) -> None:
    edges = np.unique(np.geomspace(1, lengths.max() + 1, _BINS + 1).round().astype(np.int64))
    counts, _ = np.histogram(lengths, edges)
    console.print(
        f"{counted(len(lengths), 'document')}, {lengths.sum():,} tokens: "
        f"median {np.median(lengths):,.0f}, "
        f"mean {np.mean(lengths):,.0f}, longest {lengths.max():,}",
        highlight=False,
    )
    wide, many = len(f"{lengths.max():,}"), len(f"{counts.max():,}")
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        bar = "█" * round(_BAR * count / counts.max())
        span = f"{low:>{wide},} to {high - 1:>{wide},} tokens"
        console.print(f"  {span} {count:>{many},} {bar}", highlight=False)


def _print(
    rows: list[dict[str, str | int | float]],
    settings: PackingSettings,
    sizes: Sizes,
    console: Console,
) -> None:
    table = Table(
        title=f"rows of {settings.row_length:,} tokens, documents of at most "
        f"{settings.max_seqlen:,}; speed: kept tokens by flops, "
        f"{counted(sizes.num_layers, 'layer')} of {sizes.width}",
        title_justify="left",
    )
    table.add_column("", no_wrap=True)
    for column in _COLUMNS:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            str(row["way"]),
            f"{row['kept']:.2%}",
            f"{row['fill']:.2%}",
            *(f"{row[name]:,}" for name in ("padding", "documents_cut", "tokens_dropped")),
            f"{row['attention_flops']:.2e}",
            f"{row['relative_speed']:.2f}",
        )
    console.print(table)
