"""``packformer study``: runs a sweep over variants, sizes and seeds, and reports on it."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from packformer.counted import counted
from packformer.run.lock import lock_study, release_new
from packformer.study.question import STUDY_FILE, Question, write_question
from packformer.study.report import compared_runs
from packformer.study.run_record import FINISHED, read_runs
from packformer.study.tuning import tuned_by
from packformer.study.variants import names_of
from packformer.tools.output_folder import output_folder
from packformer.tools.report.report import print_report
from packformer.tools.study.asked import Study, Sweep
from packformer.tools.study.matching import SizedVariant, refuse_other_runs
from packformer.tools.study.steps import refuse_other_steps
from packformer.tools.study.tuning import with_best
from packformer.tools.sweep_process import run_sweep

_PLACES = ("", "*/", "*/*/")  # of sweeps: a variant has its own if it is matched or tuned
_OF_SWEEP = ("sweep.csv", "multirun.yaml")


def run_study(study: Study, folder: Path | None, options: argparse.Namespace) -> None:
    """Trains what is not finished, measures it, and writes the report.

    Args:
        study: what is asked.
        folder: of the study; None for one below ``runs/studies``.
        options: with the device, see ``device_and_dtype``.

    Raises:
        ValueError: if nothing could be run, or, after the report, if runs failed.
        Interrupted: if a signal ended the sweep.
    """
    study.check()
    with output_folder(study.folder if folder is None else folder) as folder, _alone_in(folder):
        _refuse_other_files(folder)
        study.check_reference(folder)
        study.check_configurations()
        variants = study.sized_variants()
        placed = tuple(one.placed for one in variants)
        question = Question(
            study.reference,
            study.sizes,
            study.hold_out,
            study.seeds,
            placed,
            tuple(one.overrides for one in placed) or study.commands,
            study.tuning,
        )
        refuse_other_runs(folder, question)
        refuse_other_steps(folder, study.commands)
        told = [f"matched  {one.told}" for one in placed if one.told]
        print(f"study    {folder}", *told, sep="\n")
        variants = _tuned(study, variants, question, folder)
        code = 0
        for sweep in study.sweeps(folder, variants):
            code = _train(sweep, question, folder) or code
        runs, _ = compared_runs(folder, question)
        if study.position_tokens:
            ended = [run.folder for run in runs if run.state == FINISHED]
            _measure(folder, ended, study, options)
        print_report(folder, question)
    if code:
        failed = sum(run.state != FINISHED for run in runs)
        raise ValueError(
            f"{counted(failed, 'run')} of the study did not finish: the same command repeats them"
            if failed
            else "the sweep ended with an error: the lines above say why"
        )


def _tuned(
    study: Study, variants: Sequence[SizedVariant], question: Question, folder: Path
) -> list[SizedVariant]:
    """Tries values for each variant, and gives it the best; nothing to do if none are tuned.

    Raises:
        ValueError: if no value of a variant is known to be good.
    """
    if study.tune is None or question.tuning is None:
        return list(variants)
    names = names_of([one.placed.overrides for one in variants], study.sizes)
    found = []
    for one, name in zip(variants, names, strict=True):
        sweep = study.tuning_sweep(study.tune, folder, one)
        _train(sweep, question, folder)  # a run that fails loses
        tuned = tuned_by(name, question.tuning, read_runs(sweep[1]))
        found.append(with_best(one, study.tune, tuned))
        print(f"tuned    {tuned.told}", flush=True)
    return found


def _train(sweep: Sweep, question: Question, folder: Path) -> int:
    """Runs a sweep; returns its exit code.

    Raises:
        ValueError: if it could not begin.
        Interrupted: if a signal ended it.
    """
    command, place = sweep
    print(f"sweep    packformer {shlex.join(command)}", flush=True)
    former, code = _time_of_table(place), None
    is_new = not (folder / STUDY_FILE).exists()
    if is_new:  # if this process is killed, it tells whose runs are there
        write_question(question, folder)
    try:
        code = run_sweep(command)
    finally:  # a sweep that was refused says nothing of the runs that are there
        was_run = code == 0 or _time_of_table(place) != former
        if was_run:
            write_question(question, folder)
    if not was_run:
        if is_new:
            (folder / STUDY_FILE).unlink()
        raise ValueError("no run was started: the lines above say why")
    return code


def _refuse_other_files(folder: Path) -> None:
    """Refuses a folder with files that no study or sweep wrote."""
    others = sorted(one.name for one in folder.iterdir() if not one.name.startswith("."))
    marks = (STUDY_FILE, *(f"{place}{name}" for place in _PLACES for name in _OF_SWEEP))
    if others and not any(any(folder.glob(mark)) for mark in marks):
        raise ValueError(
            f"--output ({folder}) holds {others[0]} and is no study: give an empty or new folder"
        )


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """No other study runs in the folder meanwhile."""
    lock = lock_study(folder)
    try:
        yield
    finally:
        release_new(lock)


def _time_of_table(folder: Path) -> int | None:
    """When a sweep last wrote its results; None if it has not yet."""
    file = folder / "sweep.csv"
    return file.stat().st_mtime_ns if file.is_file() else None


def _measure(folder: Path, runs: Sequence[Path], study: Study, options: argparse.Namespace) -> None:
    from packformer.tools.study.positions import is_measured, measure_positions

    left = [one for one in runs if not is_measured(one, study.position_tokens, study.reach)]
    if not left:
        return
    from packformer.tools.device_arguments import device_and_dtype  # imports torch

    device, dtype = device_and_dtype(options)
    for number, one in enumerate(left, 1):
        try:
            measure_positions(one, study.position_tokens, study.reach, device, dtype)
            told = "measured"
        except (ValueError, OSError) as error:
            told = f"not measured: {' '.join(str(error).split())}"
        print(f"position {number}/{len(left)} {one.relative_to(folder)}: {told}", flush=True)
