"""Prints the answer of a folder of runs, and writes its page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from packformer.study.question import Question
from packformer.study.report import RUNS_FILE, TABLE_FILE, report_of, write_report


def asked(
    question: Question, reference: str | None, sizes: str | None, hold_out: int | None
) -> Question:
    """A question with what the command line changed of it; None changes nothing."""
    return replace(
        question,
        reference=question.reference if reference is None else reference,
        sizes=question.sizes if sizes is None else sizes,
        hold_out=question.hold_out if hold_out is None else hold_out,
    )


def print_report(folder: Path, question: Question) -> None:
    """Prints the answer in sentences, and writes the page and the tables into ``folder``.

    Raises:
        ValueError: if there is no run, or the question does not fit them.
        OSError: if the files cannot be written.
    """
    report = report_of(folder, question)
    written = write_report(report, folder)
    print()
    for line in report.lines():
        print(line)
    print(f"\nreport   {written}, {TABLE_FILE}, {RUNS_FILE}")
