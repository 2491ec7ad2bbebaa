"""``hydra/launcher=side_by_side``: jobs of a sweep at the same time, each on GPUs of its own.

Jobs on the same GPUs follow one another in one process, as far as they can.
Hydra's launcher for Joblib, last released in May 2022, gives no worker a GPU of its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from packformer.counted import counted
from packformer.run.continued import with_settings_of_run
from packformer.run.of_sweep import to_go_on, with_fixed_settings
from packformer.run.start import with_settings_of_start
from packformer.run.user_errors import USER_ERRORS
from packformer.settings import check_whole
from packformer.sweeps.cards import cards
from packformer.sweeps.former import finished_before
from packformer.sweeps.jobs import Job, failures, run_jobs, start_workers
from packformer.sweeps.kinds import kind_of
from packformer.sweeps.plan import Plan
from packformer.sweeps.traces import begin
from packformer.sweeps.worker import Outlook


class SideBySide(Launcher):
    """Starts as many jobs at a time as GPUs allow.

    Args:
        jobs: at a time; None for as many as there are GPUs for.
    """

    def __init__(self, jobs: int | None = None) -> None:
        if jobs is not None:
            check_whole("hydra.launcher.jobs", jobs, at_least=1)
        self._jobs = jobs

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra before the jobs."""
        self._context, self._config = hydra_context, config
        self._plan = Plan(hydra_context, config)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Runs one job per list of overrides.

        Raises:
            ValueError: if it cannot be said how many at a time, or if a job would overwrite a run
                of other settings.
        """
        setup_globals()
        with with_fixed_settings(self._plan.fixed_settings()):
            self._start_workers(len(job_overrides))
            return self._launch(self._plan.jobs(job_overrides, initial_job_idx))

    def _start_workers(self, jobs: int) -> None:
        """By the settings that are the same in all jobs; what is wrong in them is told later."""
        with suppress(*USER_ERRORS):
            places = self._places(self._config)
            run = _without_hydra(self._config)
            kind = kind_of(run, self._config.hydra.job.env_set)
            if kind is not None:
                settings: Any = OmegaConf.to_container(run, resolve=True)
                sweep = Path(str(self._config.hydra.sweep.dir))
                start_workers(Outlook(kind, settings), sweep, places, jobs)

    def _launch(self, jobs: Sequence[Job]) -> Sequence[JobReturn]:
        places = self._places(jobs[0].config)
        begin()
        runs = [_run_of(job) for job in jobs]
        returns = [
            self._returned(job, finished_before(run, job.folder))
            for job, run in zip(jobs, runs, strict=True)
        ]
        left = [number for number, returned in enumerate(returns) if returned.return_value is None]
        if len(left) < len(jobs):
            print(f"{counted(len(jobs) - len(left), 'job')} finished before", flush=True)

        def told(number: int, value: float) -> None:
            returns[left[number]].return_value = value
            ended = jobs[left[number]]
            how = "finished" if value == value else f"failed: {failures[-1]}"
            print(f"job {ended.folder.name} {how}", flush=True)
            self._context.callbacks.on_job_end(
                config=ended.config, config_name="config", job_return=returns[left[number]]
            )

        to_run = [
            replace(jobs[n], kind=kind_of(runs[n], jobs[n].config.hydra.job.env_set)) for n in left
        ]
        try:
            run_jobs(to_run, places, told)
        except KeyboardInterrupt:
            print(to_go_on(jobs[0].folder), file=sys.stderr)  # jobs told it to their files
            raise
        return returns

    def _returned(self, job: Job, value: float | None) -> JobReturn:
        overrides: Any = OmegaConf.to_container(job.config.hydra.overrides.task)
        done = JobReturn(overrides=overrides, cfg=job.config, status=JobStatus.COMPLETED)
        done.return_value = value
        return done

    def _places(self, config: DictConfig) -> list[dict[str, str]]:
        found = cards() if config.trainer.accelerator != "cpu" else []
        if not found:
            if self._jobs is None:
                raise ValueError(
                    "hydra.launcher.jobs is needed where there is no GPU: write "
                    "hydra.launcher.jobs=2"
                )
            threads = os.environ.get("OMP_NUM_THREADS") or _threads(self._jobs)
            return [{"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": threads}] * self._jobs
        each = config.trainer.devices
        if not isinstance(each, int) or each < 1:
            raise ValueError(f"trainer.devices ({each}) must be a number for jobs side by side")
        most = len(found) // each
        if (self._jobs or 1) > most:
            raise ValueError(
                f"hydra.launcher.jobs ({self._jobs or 1}) x trainer.devices ({each}) is more than "
                f"the {counted(len(found), 'GPU')} of this machine"
            )
        groups = [found[n * each : (n + 1) * each] for n in range(self._jobs or most)]
        return [{"CUDA_VISIBLE_DEVICES": ",".join(group)} for group in groups]


def _run_of(job: Job) -> DictConfig:
    """Its configuration without Hydra's."""
    run = _without_hydra(job.config)
    with suppress(*USER_ERRORS):  # which the job tells itself
        overrides = [str(override) for override in job.config.hydra.overrides.task]
        return with_settings_of_start(with_settings_of_run(run, overrides), overrides)
    return run


def _without_hydra(config: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(config, [str(name) for name in config if name != "hydra"])


def _threads(jobs: int) -> str:
    """Of each job, where so many share the cores of this process."""
    able = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    cores = len(able(0)) if able else os.cpu_count() or 1
    return str(max(1, cores // jobs))
