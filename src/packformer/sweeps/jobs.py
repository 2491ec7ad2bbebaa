"""Jobs of a sweep in other processes, one after another in each."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig

from packformer.interruption import EXIT_CODES, Interrupted, signals_heard_by
from packformer.ranks.ending import death
from packformer.ranks.launched import PARENT, SWEEP
from packformer.run.chosen import own_places
from packformer.run.naming import name_of
from packformer.sweeps.former import objective_of
from packformer.sweeps.kinds import Kind
from packformer.sweeps.table import FAILURE_FILE, write_failure
from packformer.sweeps.worker import Order, Outlook, Worker, opened

_EVERY = 0.1  # seconds between looks at the processes
_OUTPUT = "output.txt"
_NEVER_BEGAN = 1_000  # no process ends with this code
failures: list[str] = []
"""Errors of the jobs of this process, one line each."""


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        config: composed, with Hydra's own.
        folder: of the run.
        sweep: folder of the sweep.
        kind: of jobs that it may share a process with; None if it needs one of its own.
    """

    config: DictConfig
    folder: Path
    sweep: Path
    kind: Kind | None = None

    def begin(self, place: Mapping[str, str], *, alone: bool) -> subprocess.Popen:
        """Starts a process of its own for the run.

        Args:
            place: variables that say where, such as ``CUDA_VISIBLE_DEVICES``.
            alone: whether it prints where this process prints, and not to a file in its folder.
        """
        found = find_spec("train")
        assert found is not None
        assert found.origin is not None
        command = [sys.executable, found.origin, *self._arguments()]
        with opened(self._prepare(alone=alone)) as log:
            return subprocess.Popen(
                command,
                env=_environment(self.sweep, place),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def begin_in(self, worker: Worker | None, place: Mapping[str, str], *, alone: bool) -> Worker:
        """Starts the run in ``worker``, or in a new one if that is None; returns it."""
        assert self.kind is not None
        output = self._prepare(alone=alone)
        worker = worker or Worker(self.kind, _environment(self.sweep, place), output)
        worker.give(Order(self._arguments(), output))
        return worker

    def _prepare(self, *, alone: bool) -> str | None:
        """The file for what it prints."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / FAILURE_FILE).unlink(missing_ok=True)
        return None if alone else str(self.folder.resolve() / _OUTPUT)

    def _arguments(self) -> list[str]:
        hydra = self.config.hydra
        where = QuotedString(str(self.folder.resolve()), Quote.double).with_quotes()
        return [*own_places(self.config), *hydra.overrides.task, f"hydra.run.dir={where}"]

    def ended(self, code: int) -> float:
        """What the run returned.

        Args:
            code: of its process; negative if a signal ended it.

        Returns:
            The objective; NaN if the run failed, which is then recorded in ``failures``.
        """
        if code == 0:
            return objective_of(self.folder, self.config.objective)
        file = self.folder / FAILURE_FILE
        if not file.is_file():
            overrides = list(self.config.hydra.overrides.task)
            name = name_of(str(self.config.name), overrides)
            write_failure(self.folder, name, death(0, code), overrides)
        failures.append(json.loads(file.read_text(encoding="utf-8"))["error"])
        return math.nan


def _environment(sweep: Path, place: Mapping[str, str]) -> dict[str, str]:
    # Modules are found as they are here, those of the user's folder too.
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    own = {**os.environ, **place, "PYTHONPATH": path}
    return own | {SWEEP: str(sweep.resolve()), PARENT: str(os.getpid())}


@dataclass
class _Slot:
    """Where one job at a time runs.

    Attributes:
        place: variables of the environment.
        worker: that runs its jobs, or may run the next one.
        process: that runs a job alone.
        job: number of the job that runs; None if none does.
    """

    place: Mapping[str, str]
    worker: Worker | None = None
    process: subprocess.Popen | None = None
    job: int | None = None

    def begin(self, number: int, job: Job, *, alone: bool) -> None:
        """Starts a job, in the process of the job before if that may be."""
        former, self.worker = self.worker, None
        if former is not None and (former.kind != job.kind or former.process.poll() is not None):
            _leave(former)
            former = None
        if job.kind is None:
            self.process = job.begin(self.place, alone=alone)
        else:
            self.worker = job.begin_in(former, self.place, alone=alone)
            self.process = self.worker.process
        self.job = number

    def ended(self) -> int | None:
        """The exit code of the job; None while it runs, ``_NEVER_BEGAN`` if it is to be repeated.

        A process that died had perhaps finished its job before.
        """
        assert self.process is not None
        code = self.process.poll()
        if self.worker is not None:
            if self.worker.has_finished():
                return 0
            if code is not None:
                never_began = self.worker.refused
                _leave(self.worker)
                self.worker = None
                return _NEVER_BEGAN if never_began else code
        return code


_slots: dict[tuple[int, frozenset[tuple[str, str]]], _Slot] = {}
"""By number and place, for the next batch of an optimizing sweeper."""
_leaving: list[Worker] = []


def _leave(worker: Worker) -> None:
    worker.dismiss()
    _leaving.append(worker)


def end_workers() -> None:
    """Ends the processes of jobs: the sweep has no more."""
    for slot in _slots.values():
        if slot.job is not None and slot.process is not None:  # after an error of this process
            slot.process.kill()
        if slot.worker is not None:
            _leave(slot.worker)
    _slots.clear()
    while _leaving:
        _leaving.pop().wait()


def start_workers(
    outlook: Outlook, sweep: Path, places: Sequence[Mapping[str, str]], jobs: int
) -> None:
    """Has the processes of the first jobs import torch while the jobs are still planned.

    Args:
        outlook: what is known; jobs that turn out to be of another kind get other processes.
        sweep: folder of the sweep.
        places: as of ``run_jobs``.
        jobs: how many there are.
    """
    output = None if len(places) == 1 else os.devnull
    for slot in _slots_at(places)[:jobs]:
        if slot.worker is None:
            slot.worker = Worker(
                outlook.kind, _environment(sweep, slot.place), output, outlook=outlook
            )


def _slots_at(places: Sequence[Mapping[str, str]]) -> list[_Slot]:
    return [
        _slots.setdefault((number, frozenset(place.items())), _Slot(place))
        for number, place in enumerate(places)
    ]


def run_jobs(
    jobs: Sequence[Job],
    places: Sequence[Mapping[str, str]],
    on_end: Callable[[int, float], None] = lambda number, value: None,
) -> list[float]:
    """Runs as many jobs at a time as there are places, each in the process of the job before it.

    A job gets a new process if the one before failed, or was of another kind. Processes stay for
    further jobs until ``end_workers``.

    Args:
        jobs: in their order; one that can follow in the same process may go before.
        places: variables of the environment for each; a lone one prints here, several to
            ``output.txt`` in the jobs' folders.
        on_end: called with the place in ``jobs`` and the objective of each that has ended.

    Returns:
        Objectives, NaN of a job that failed.

    Raises:
        Interrupted: once all jobs have ended after Ctrl-C, SIGTERM or the like.
    """
    values = [math.nan] * len(jobs)
    waiting, heard = list(range(len(jobs))), list[int]()
    slots = _slots_at(places)
    interrupted: Interrupted | None = None
    with signals_heard_by(lambda number, _: heard.append(number)):
        while waiting or any(slot.job is not None for slot in slots):
            if heard:
                # Every signal reaches every job once; no job is started after it.
                number = heard.pop(0)
                interrupted = Interrupted(number)
                waiting.clear()
                for slot in slots:
                    if slot.job is not None and slot.process is not None:
                        slot.process.send_signal(number)
            for slot in slots:
                if waiting and slot.job is None:
                    number = _next(waiting, jobs, slot.worker)
                    waiting.remove(number)
                    slot.begin(number, jobs[number], alone=len(places) == 1)
            time.sleep(_EVERY)
            for slot in slots:
                if slot.job is None or (code := slot.ended()) is None:
                    continue
                number, slot.job = slot.job, None
                if code in EXIT_CODES:
                    interrupted = interrupted or Interrupted.by_code(code)
                    waiting.clear()
                elif interrupted and code == -interrupted.number:
                    pass  # it had just started, and did not listen yet
                elif code != _NEVER_BEGAN:
                    values[number] = jobs[number].ended(code)
                    on_end(number, values[number])
                elif not interrupted:
                    waiting.insert(0, number)
    if interrupted:
        raise interrupted
    return values


def _next(waiting: Sequence[int], jobs: Sequence[Job], worker: Worker | None) -> int:
    """The first job that ``worker`` can run; the first of all if there is none."""
    able = [number for number in waiting if worker is not None and jobs[number].kind == worker.kind]
    return (able or waiting)[0]
