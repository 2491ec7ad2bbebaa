"""The report of a folder of runs: a page, and its numbers as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packformer.counted import counted
from packformer.study.comparison import Comparison, compare, finished, is_finished
from packformer.study.ladder import Ladder, ladders, sentence_of
from packformer.study.page import page
from packformer.study.placed import as_asked, tuned_in
from packformer.study.question import Question
from packformer.study.run_record import (
    DAMAGED,
    ENVIRONMENT_FILE,
    METRICS_FILE,
    POSITIONS_FILE,
    SUMMARY_FILE,
    Run,
    cannot_be_read,
    read_runs,
)
from packformer.study.sentences import (
    NAMED,
    ends_of_tuning,
    headline,
    how_matched,
    how_tuned,
    listed,
    sentences,
)
from packformer.study.table import row_of, row_of_run, write_rows
from packformer.study.tuning import Tuned, Tuning, tuned_elsewhere
from packformer.study.variants import (
    Variant,
    labels_of,
    names_of,
    not_begun,
    of_asked_sizes,
    variants_in,
)
from packformer.whole_file import replace_text

PAGE_FILE, TABLE_FILE, RUNS_FILE = "report.html", "report.csv", "report_runs.csv"
_WITHOUT = {
    SUMMARY_FILE: "the run is left out, and whether it finished is not known",
    METRICS_FILE: "the run's curve is left out",
    ENVIRONMENT_FILE: "the run's tokenizer, versions and command are not known",
    POSITIONS_FILE: "the run's loss by position is left out",
}


@dataclass(frozen=True)
class Report:
    """What runs say of variants.

    Attributes:
        runs: all of them.
        reference: label of the variant that others are compared with.
        found: each variant beside the reference.
        ladders: of each label; empty without sizes.
        cannot: what cannot be told, in sentences.
        tuning: what was tuned; None if nothing was.
        tuned: the value of each variant.
        left: names of variants that were asked for and have not begun.
        alone: whether only one was asked for, in whatever sizes.
    """

    runs: tuple[Run, ...]
    reference: str
    found: tuple[Comparison, ...]
    ladders: tuple[Ladder, ...]
    cannot: tuple[str, ...]
    tuning: Tuning | None = None
    tuned: tuple[Tuned, ...] = ()
    left: tuple[str, ...] = ()
    alone: bool = False

    @property
    def answer(self) -> str:
        """In a sentence."""
        return headline(self.found, self.reference, self.ladders, self.left)

    def lines(self) -> list[str]:
        """The answer in sentences, for a terminal."""
        return [
            self.answer,
            *self.cannot,
            *(words for _, words in sentences(self.found, self.reference, alone=self.alone)),
            *how_matched(self.found),
            *([how_tuned(self.tuning)] if self.tuning else []),
            *(one.told for one in self.tuned),
            *(sentence_of(ladder) for ladder in self.ladders),
        ]


def compared_runs(folder: Path, question: Question) -> tuple[list[Run], list[Tuned]]:
    """The runs that are compared, and the value of each variant if they were tuned.

    Raises:
        ValueError: if there is no run.
    """
    runs, tuned = of_asked_sizes(read_runs(folder), question.asked, question.sizes), []
    if question.tuning is not None:
        names = names_of([one.overrides for one in question.placed], question.sizes)
        tuned = tuned_in(runs, folder, question.placed, question.tuning, names)
    return as_asked(runs, folder, question.placed, tuned), tuned


def report_of(folder: Path, question: Question) -> Report:
    """Reads the runs below a folder and compares them.

    Raises:
        ValueError: if there is no run, or no variant has the name of the reference.
    """
    runs, tuned = compared_runs(folder, question)
    if not runs:
        raise ValueError(
            f"{folder} holds no run to compare, only those of its tuning: give the command of the "
            "study again"
        )
    variants = variants_in(runs, question.sizes, question.asked)
    left = not_begun(question.asked, runs, question.sizes)
    labels = list(dict.fromkeys(variant.label for variant in variants))
    reference = labels[0] if question.reference is None else question.reference
    if reference in labels_of(question.asked, question.sizes) and reference not in labels:
        raise ValueError(
            f"no run of the reference, {reference}, has begun: give the command of the study "
            f"again, or as --reference one of {', '.join(labels)}"
        )
    if reference not in labels:
        raise ValueError(
            f"--reference ({reference}) is none of the variants: name one of {', '.join(labels)}"
        )
    seeds = sorted({run.seed for run in runs if run.seed is not None} | set(question.seeds))
    found = compare(variants, reference, seeds)
    found.sort(key=lambda one: one.variant.label != reference)  # it comes first, the rest as given
    steps = ladders(variants, question.hold_out) if question.sizes is not None else []
    cannot = _cannot(variants, seeds, left)
    return Report(
        tuple(runs),
        reference,
        tuple(found),
        tuple(steps),
        (
            *cannot,
            *tuned_elsewhere(tuned, {one.name: finished(one) for one in variants}),
            *ends_of_tuning(tuned),
        ),
        question.tuning,
        tuple(tuned),
        tuple(left),
        alone=len({*labels, *labels_of(question.asked, question.sizes)}) == 1,
    )


def write_report(report: Report, folder: Path) -> Path:
    """Writes ``report.html``, ``report.csv`` and ``report_runs.csv``; returns the page."""
    rows = [row_of(one) for one in report.found]
    run_rows = [row_of_run(one.variant, run) for one in report.found for run in one.variant.runs]
    done = sum(is_finished(run) for run in report.runs)
    variants = counted(len({one.variant.label for one in report.found}), "variant")
    if report.left:
        variants = f"{len(report.found)} of {len(report.found) + len(report.left)} variants"
    title = f"{variants}, {counted(len(report.runs), 'run')}, {done:,} of them finished"
    write_rows(rows, folder / TABLE_FILE)
    write_rows(run_rows, folder / RUNS_FILE)
    text = page(
        report.found,
        rows,
        run_rows,
        report.runs,
        report.ladders,
        reference=report.reference,
        title=title,
        answer=report.answer,
        alone=report.alone,
        cannot=report.cannot,
        tuning=report.tuning,
        tuned=report.tuned,
    )
    replace_text(folder / PAGE_FILE, text)
    return folder / PAGE_FILE


def _cannot(variants: Sequence[Variant], seeds: Sequence[int], left: Sequence[str]) -> list[str]:
    found = []
    if len(left) > NAMED:  # otherwise the headline has their names
        found.append(f"No run of {listed(left)} has begun.")
    missing = [
        v.name
        for v in variants
        if any(not is_finished(run) and run.state != DAMAGED for run in v.runs)
    ]
    if missing:
        found.append(
            f"Runs of {listed(missing)} failed or are unfinished. The figures are of finished runs "
            "alone. If a variant makes its own runs fail, it looks better here than it is."
        )
    if len(variants) == 1 and not left:  # sizes of one variant are a ladder
        found.append(
            "With one variant nothing can be compared: train several, such as +experiment=mha,gqa."
        )
    if len(seeds) < 2:
        found.append(
            "With one seed it cannot be told whether a difference is chance: run at least 3 seeds."
        )
    found += [
        f"{run.error if name == SUMMARY_FILE else cannot_be_read(run.folder, name)}: "
        f"{_WITHOUT[name]}."
        for variant in variants
        for run in variant.runs
        for name in run.damaged
        if name in _WITHOUT
    ]
    return found
