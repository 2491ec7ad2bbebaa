"""What a run tells of skipped steps: a line in the log, and ``skipped.csv``."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch.distributed as dist

from packformer.counted import counted
from packformer.training.incomplete import goes_on_without
from packformer.training.step_guard import SkippedRow, SkippedStep
from packformer.whole_file import replacing

log = logging.getLogger(__name__)

_COLUMNS = ("step", "cause", "grad_norm", "rank", "row", "loss", "documents")
_LONGEST = 2**31 - 1  # characters of all documents of a row; Python's own limit is 131,072
_SHOWN = 3  # documents or steps on one line

NameDocument = Callable[[int, int], str]
"""What a document is called, by its number and the first of its tokens that is meant."""


def number_of_document(number: int, start: int) -> str:
    """Its number, where nothing else is known."""
    return f"document {number}" + (f" from token {start}" if start else "")


@dataclass(frozen=True)
class _OfAllRanks:
    step: int
    grad_norm: float
    rows: list[tuple[int, SkippedRow]]

    @property
    def cause(self) -> str:
        """``loss`` or ``gradient``, if it is not finite; else ``spike``."""
        if not all(math.isfinite(row.loss) for _, row in self.rows):
            return "loss"
        return "spike" if math.isfinite(self.grad_norm) else "gradient"

    @property
    def suspects(self) -> list[tuple[int, SkippedRow]]:
        """Rows whose loss is not finite; if it is in none, all."""
        return [(rank, row) for rank, row in self.rows if not math.isfinite(row.loss)] or self.rows


def tell_skipped(
    trainer: L.Trainer,
    skipped: Sequence[SkippedStep],
    file: Path | None,
    name_document: NameDocument,
) -> None:
    """Writes one line to the log, and to ``file`` one for each row that may be the cause.

    All ranks must call it. Nothing happens where nothing was skipped.

    Args:
        trainer: of the run.
        skipped: the same steps on all ranks, each with its own rows.
        file: created if it is missing; None for none.
        name_document: see there.
    """
    if not skipped:
        return
    steps = _over_ranks(trainer, skipped)
    if not trainer.is_global_zero:
        return
    log.warning("skipped  %s%s", _line(steps, name_document), f": see {file}" if file else "")
    if file is not None:
        lines = [line for step in steps for line in _lines(step, name_document)]
        with goes_on_without(file.name):
            is_new = not file.exists()
            with file.open("a", newline="", encoding="utf-8") as stream:
                csv.writer(stream).writerows([_COLUMNS, *lines] if is_new else lines)


def forget_after(file: Path, step: int) -> None:
    """Removes what ``file`` says of steps after ``step``: a resumed run takes them again."""
    if not file.is_file():
        return
    csv.field_size_limit(_LONGEST)
    with file.open(newline="", encoding="utf-8", errors="replace") as stream:
        kept = [line for line in csv.reader(stream) if _is_whole(line) and int(line[0]) <= step]
    if not kept:
        file.unlink()
        return
    with (
        replacing(file) as unfinished,
        unfinished.open("w", newline="", encoding="utf-8") as stream,
    ):
        csv.writer(stream).writerows([_COLUMNS, *kept])


def _is_whole(line: Sequence[str]) -> bool:
    """Whether it was written to its end; a killed run may leave half of one."""
    return len(line) == len(_COLUMNS) and line[0].isdecimal()


def _over_ranks(trainer: L.Trainer, skipped: Sequence[SkippedStep]) -> list[_OfAllRanks]:
    of_ranks: list[Sequence[SkippedStep]] = [skipped]
    if trainer.world_size > 1:
        of_ranks = [[]] * trainer.world_size
        dist.all_gather_object(of_ranks, skipped)
    return [
        _OfAllRanks(
            same[0].step,
            same[0].grad_norm,
            [(rank, row) for rank, step in enumerate(same) for row in step.rows],
        )
        for same in zip(*of_ranks, strict=True)
    ]


def _line(steps: Sequence[_OfAllRanks], name_document: NameDocument) -> str:
    first = steps[0]
    rank, row = first.suspects[0]
    value = row.loss if first.cause == "loss" else first.grad_norm
    what = f"the {first.cause} is {value}"
    if first.cause == "spike":
        what = f"a spike, the norm of the gradient is {value:.4g} and the loss {row.loss:.4g}"
    where = f"row {row.number} of rank {rank}"
    if len(first.suspects) > 1:
        where = f"{counted(len(first.suspects), 'row')}, the first"
    told = f"step {first.step}: {what} in {where} with {_some(row, name_document)}"
    if len(steps) == 1:
        return told
    numbers = ", ".join(str(step.step) for step in steps[:_SHOWN])
    more = ", ..." if len(steps) > _SHOWN else ""
    return f"{len(steps)} steps ({numbers}{more}); {told}"


def _some(row: SkippedRow, name_document: NameDocument) -> str:
    names = [name_document(*piece) for piece in row.pieces[:_SHOWN]]
    more = len(row.pieces) - len(names)
    return ", ".join(names) + (f" and {counted(more, 'more document')}" if more else "")


def _lines(step: _OfAllRanks, name_document: NameDocument) -> Iterator[tuple[object, ...]]:
    for rank, row in step.suspects:
        documents = "; ".join(name_document(*piece) for piece in row.pieces)
        yield (
            step.step,
            step.cause,
            step.grad_norm,
            rank,
            row.number,
            row.loss,
            documents,
        )
