"""``packformer eval``: scores runs on documents, prints and writes what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from packformer.counted import counted
from packformer.data.corpus_names import corpus_names
from packformer.evaluation import Evaluation, check_documents, evaluate
from packformer.run.load import load
from packformer.run.model_path import weights_at
from packformer.tools.eval.picture import draw_evaluations
from packformer.tools.eval.table import print_evaluation, print_totals, write_csv
from packformer.tools.eval.texts import Given, encoded
from packformer.tools.output_folder import output_folder
from packformer.tools.placement import computing, place


@dataclass(frozen=True)
class Request:
    """How to score.

    Attributes:
        row_length: tokens of a row.
        max_length: tokens of the longest document that is scored whole; None for the longest that
            a run was trained on.
        device: ``"cpu"`` or ``"cuda"``.
        dtype: to compute in.
    """

    row_length: int
    max_length: int | None
    device: str
    dtype: torch.dtype


def run_eval(runs: Sequence[str], given: Given, request: Request, folder: Path) -> None:
    """Prints a table of each run, and writes ``eval.csv`` and ``eval.png``, as each is scored.

    Raises:
        ValueError: if a run or the data cannot be used; of several runs, before one is scored.
    """
    console = Console(width=110)
    names = _names(runs)
    found: dict[str, Evaluation] = {}
    with output_folder(folder) as folder:
        if (folder / "eval.csv").exists():
            raise ValueError(
                f"--output ({folder}) has an eval.csv: name another folder, or remove it"
            )
        for run in runs if len(runs) > 1 else ():
            _check(run, given, request)
        for name, run in zip(names, runs, strict=True):
            found[name] = _score(run, given, request, console)
            print_evaluation(name, found[name], console)
            write_csv(found, folder / "eval.csv")
            draw_evaluations(found, folder / "eval.png")
    if len(found) > 1:
        print_totals(found, console)
    console.print(f"written to {folder}", soft_wrap=True, markup=False)


def _check(run: str, given: Given, request: Request) -> None:
    """Refuses a run that cannot be scored. It is read once more later: one at a time fits."""
    model, tokenizer = load(run)
    documents = encoded(given, tokenizer, run).documents
    try:
        check_documents(model, documents, max_length=request.max_length)
    except ValueError as error:
        raise ValueError(f"{run}: {error}") from error


def _score(run: str, given: Given, request: Request, console: Console) -> Evaluation:
    model, tokenizer = load(run)
    texts = encoded(given, tokenizer, run)
    kernel = place(model, request.device, request.dtype)
    told = {"weights": weights_at(run), "data": texts.description, "attend": kernel}
    for name, value in told.items():
        console.print(f"{name:8} {value}", highlight=False, soft_wrap=True, markup=False)
    start = time.perf_counter()
    with _progress(console) as report, computing(request.device, request.dtype):
        found = evaluate(
            model,
            texts.documents,
            row_length=request.row_length,
            max_length=request.max_length,
            byte_lengths=texts.byte_lengths,
            report=report,
        )
    rate = found.total.tokens / (time.perf_counter() - start)
    console.print(f"{'speed':8} {rate:,.0f} tokens/s", highlight=False)
    _say_what_is_special(found, console)
    return found


def _names(runs: Sequence[str]) -> list[str]:
    """Short names of runs, all different."""
    if len({Path(run).expanduser().resolve() for run in runs}) < len(runs):
        raise ValueError(f"a run is given twice: {', '.join(runs)}")
    return corpus_names([str(Path(run).expanduser().resolve()) for run in runs])


def _say_what_is_special(found: Evaluation, console: Console) -> None:
    if found.split:
        console.print(
            f"{'split':8} {counted(found.split, 'document')} longer than {found.max_length:,} "
            "tokens: scored in pieces, each without the text before it",
            highlight=False,
            soft_wrap=True,
        )
    if found.unscored:
        console.print(
            f"{'unscored':8} {counted(found.unscored, 'document')} of less than two tokens",
            highlight=False,
        )


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[int], None]]:
    """A count of scored tokens on a terminal, removed at the end."""
    if not console.is_terminal:
        yield lambda tokens: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} tokens scored"))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda tokens: progress.advance(task, tokens)
