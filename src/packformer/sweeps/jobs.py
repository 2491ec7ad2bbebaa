"""Jobs of a sweep in processes of their own."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig

from packformer.interruption import EXIT_CODES, Interrupted, signals_heard_by
from packformer.ranks.ending import death
from packformer.ranks.launched import PARENT, SWEEP
from packformer.run.naming import name_of
from packformer.sweeps.former import objective_of
from packformer.sweeps.table import FAILURE_FILE, write_failure

_EVERY = 0.1  # seconds between looks at the processes
_OUTPUT = "output.txt"
failures: list[str] = []
"""Errors of the jobs of this process, one line each."""


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        config: composed, with Hydra's own.
        folder: of the run.
        sweep: folder of the sweep.
    """

    config: DictConfig
    folder: Path
    sweep: Path

    def start(self, place: Mapping[str, str], output: Any = None) -> subprocess.Popen:
        """Starts the run.

        Args:
            place: variables that say where, such as ``CUDA_VISIBLE_DEVICES``.
            output: file of what it prints; None for where this process prints.
        """
        (self.folder / FAILURE_FILE).unlink(missing_ok=True)
        hydra = self.config.hydra
        found = find_spec("train")
        assert found is not None
        assert found.origin is not None
        command = [sys.executable, found.origin]
        for source in hydra.runtime.config_sources:
            command += ["--config-dir", source.path] if source.provider == "command-line" else []
        where = QuotedString(str(self.folder.resolve()), Quote.double).with_quotes()
        command += [*hydra.overrides.task, f"hydra.run.dir={where}"]
        # Modules are found as they are here, those of the user's folder too.
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        own = {**os.environ, **place, "PYTHONPATH": path}
        own |= {SWEEP: str(self.sweep.resolve()), PARENT: str(os.getpid())}
        return subprocess.Popen(
            command, env=own, stdout=output, stderr=output, start_new_session=True
        )

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


@dataclass
class _Running:
    processes: dict[int, tuple[subprocess.Popen, int]] = field(default_factory=dict)
    interrupted: Interrupted | None = None

    def forward(self, number: int, _: object) -> None:
        """A signal reaches every job once; none is started after it."""
        self.interrupted = Interrupted(number)
        for process, _place in self.processes.values():
            process.send_signal(number)


def run_jobs(
    jobs: Sequence[Job],
    places: Sequence[Mapping[str, str]],
    on_end: Callable[[int, float], None] = lambda number, value: None,
) -> list[float]:
    """Runs each job in a process of its own, as many at a time as there are places.

    Args:
        jobs: in their order.
        places: variables of the environment for each; a lone one prints here, several to
            ``output.txt`` in the jobs' folders.
        on_end: called with the place in ``jobs`` and the objective of each that has ended.

    Returns:
        Objectives, NaN of a job that failed.

    Raises:
        Interrupted: once all jobs have ended after Ctrl-C, SIGTERM or the like.
    """
    values = [math.nan] * len(jobs)
    waiting, free = list(range(len(jobs))), list(range(len(places)))
    running = _Running()
    with signals_heard_by(running.forward):
        while running.processes or (waiting and not running.interrupted):
            while waiting and free and not running.interrupted:
                number, place = waiting.pop(0), free.pop(0)
                process = _start(jobs[number], places[place], alone=len(places) == 1)
                running.processes[number] = process, place
            time.sleep(_EVERY)
            for number, (process, place) in list(running.processes.items()):
                if (code := process.poll()) is None:
                    continue
                del running.processes[number]
                free.append(place)
                if code in EXIT_CODES:
                    running.interrupted = running.interrupted or Interrupted.by_code(code)
                else:
                    values[number] = jobs[number].ended(code)
                    on_end(number, values[number])
    if running.interrupted:
        raise running.interrupted
    return values


def _start(job: Job, place: Mapping[str, str], *, alone: bool) -> subprocess.Popen:
    job.folder.mkdir(parents=True, exist_ok=True)
    if alone:
        return job.start(place)
    with (job.folder / _OUTPUT).open("ab") as output:
        return job.start(place, output)
