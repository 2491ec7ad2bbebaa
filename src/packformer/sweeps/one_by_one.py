"""The default launcher: jobs of a sweep one after the other, in this process."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence

from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, read_write

from packformer.run.of_sweep import with_fixed_settings
from packformer.run.process_state import kept_environment
from packformer.sweeps.plan import Plan
from packformer.sweeps.table import FAILURE_FILE
from packformer.sweeps.traces import begin


class OneByOne(Launcher):
    """Hydra's own launcher, but each job continues what it left in the sweep's folder."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra before the jobs."""
        self._context, self._task = hydra_context, task_function
        self._plan = Plan(hydra_context, config)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Runs one job per list of overrides.

        Raises:
            ValueError: before the first, if one would overwrite a run of other settings.
        """
        setup_globals()
        with with_fixed_settings(self._plan.fixed_settings()):
            jobs = self._plan.jobs(job_overrides, initial_job_idx)
            begin()
            returns = []
            for job in jobs:
                with read_write(job.config.hydra):
                    job.config.hydra.sweep.subdir = os.path.relpath(job.folder, job.sweep)
                (job.folder / FAILURE_FILE).unlink(missing_ok=True)
                with kept_environment(), warnings.catch_warnings():  # each job is warned anew
                    returned = run_job(
                        hydra_context=self._context,
                        task_function=self._task,
                        config=job.config,
                        job_dir_key="hydra.sweep.dir",
                        job_subdir_key="hydra.sweep.subdir",
                    )
                returns.append(returned)
            return returns
