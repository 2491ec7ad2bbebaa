"""The figures of evaluations on the terminal and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from packformer.evaluation import Evaluation, Score, Span
from packformer.whole_file import replacing

_FIGURES = ("documents", "tokens", "loss", "perplexity", "bits per byte")


def print_evaluation(name: str, found: Evaluation, console: Console) -> None:
    """Prints the figures of a run, by length and by position.

    Args:
        name: of the run.
        found: its figures.
        console: to print on.
    """
    table = _table(f"{name}, trained on documents of up to {found.trained_length:,} tokens")
    _add(table, "all", found.documents, found.total)
    table.add_section()
    for span in found.by_length:
        _add(table, f"documents of {_range(span)} tokens", span.documents, span.score)
    table.add_section()
    for span in found.by_position:
        _add(table, f"token {_range(span)} of a document", span.documents, span.score)
    console.print(table)


def print_totals(found: Mapping[str, Evaluation], console: Console) -> None:
    """Prints the figures of several runs side by side."""
    table = _table("all runs")
    for name, evaluation in found.items():
        _add(table, name, evaluation.documents, evaluation.total)
    console.print(table)


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for figure in _FIGURES:
        table.add_column(figure, justify="right")
    return table


def _range(span: Span) -> str:
    return f"{span.first:,}" if span.first == span.last else f"{span.first:,} to {span.last:,}"


def _add(table: Table, name: str, documents: int, score: Score) -> None:
    bits = score.bits_per_byte
    table.add_row(
        name,
        f"{documents:,}",
        f"{score.tokens:,}",
        f"{score.loss:.4f}",
        f"{score.perplexity:,.2f}",
        "" if bits is None else f"{bits:.4f}",
    )


def write_csv(found: Mapping[str, Evaluation], file: Path) -> None:
    """Writes all figures: a row for each run and span, ``part`` says of what.

    Raises:
        OSError: naming the file, which is whole or absent, and the room on its disk.
    """
    rows = [row for name, evaluation in found.items() for row in _rows(name, evaluation)]
    with replacing(file) as draft, draft.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _rows(name: str, found: Evaluation) -> Iterator[dict[str, str | int | float | None]]:
    longest = found.by_length[-1].last
    parts = {
        "all": (Span(1, longest, found.documents, found.total),),
        "length": found.by_length,
        "position": found.by_position,
    }
    for part, spans in parts.items():
        for span in spans:
            yield {
                "run": name,
                "part": part,
                "first": span.first,
                "last": span.last,
                "documents": span.documents,
                "tokens": span.score.tokens,
                "bytes": span.score.bytes,
                "nats": span.score.nats,
                "loss": span.score.loss,
                "perplexity": span.score.perplexity,
                "bits_per_byte": span.score.bits_per_byte,
                "trained_length": found.trained_length,
                "max_length": found.max_length,
            }
