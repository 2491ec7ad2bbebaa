"""The jobs of a sweep and their folders, decided before the first one starts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from packformer.run.continued import resumed_folder, with_settings_of_run
from packformer.run.naming import name_of
from packformer.run.of_sweep import another_folder
from packformer.run.resume import ABSENT, differences, flat
from packformer.run.secrets import refuse_secrets
from packformer.run.start import with_settings_of_start
from packformer.run.user_errors import USER_ERRORS
from packformer.sweeps.former import (
    former_settings,
    holds_run,
    is_same_job,
    refuse_other_job,
    told_differences,
    why_other,
)
from packformer.sweeps.jobs import Job
from packformer.sweeps.table import names_of_jobs

_NUMBERED = re.compile(r"\d+_")


@dataclass(frozen=True)
class _Planned:
    job: Job
    settings: dict[str, Any] | None
    """Resolved; None if they cannot be: the job itself will say why."""


class Plan:
    """Finds the jobs of a sweep, and for each what an earlier sweep left in the same folder.

    A job continues the run of its settings, whatever its number. A job whose folder would have
    the same name but for the number continues a run that it may resume.

    Args:
        context: Hydra's.
        config: of the sweep.

    Raises:
        ValueError: if it holds a secret.
    """

    def __init__(self, context: HydraContext, config: DictConfig) -> None:
        # Hydra writes all of it to the sweep's folder, settings from files of the user's too.
        refuse_secrets(OmegaConf.to_container(config, resolve=False), [])
        self._context, self._config = context, config
        self._sweep = Path(str(config.hydra.sweep.dir))
        self._resumed: set[Path] = set()  # runs that a job continues
        self._left: list[Path] | None = None  # by earlier sweeps, and no job's yet

    def fixed_settings(self) -> list[str]:
        """Names of the settings that are the same in all jobs."""
        hydra = self._config.hydra
        params = [
            f"{name}={value}"
            for name, value in (hydra.sweeper.get("params") or {}).items()
            if not OmegaConf.is_config(value)  # Ax's way to tell a range
        ]
        parser = OverridesParser.create(config_loader=self._context.config_loader)
        given = parser.parse_overrides([*params, *hydra.overrides.task])
        swept = {override.get_key_element(): override.is_sweep_override() for override in given}
        return [name.lstrip("+~") for name, is_swept in swept.items() if not is_swept]

    def jobs(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[Job]:
        """One job for each list of overrides, with the folder that it writes to.

        Args:
            job_overrides: of each job.
            first: number of the first of them.

        Raises:
            ValueError: if a job would overwrite a run of other settings, or mix with another sweep;
                if two would continue the same run.
        """
        jobs = [
            self._job(overrides, number) for number, overrides in enumerate(job_overrides, first)
        ]
        for job in jobs:
            self._refuse_run_of_another(job)
        begins = self._left is None
        if self._left is None:
            self._left = _numbered(self._sweep)
            own = [job.folder for job in jobs if holds_run(job.folder)]  # named otherwise
            self._left += [folder for folder in own if folder not in self._left]
        if self._left or any(holds_run(job.folder) for job in jobs):  # of a batch before
            jobs = self._with_former([_Planned(job, _settings(job)) for job in jobs], begins)
        for job in jobs:
            names_of_jobs[job.folder.name] = name_of(str(job.config.name), _overrides(job))
        return jobs

    def _job(self, overrides: Sequence[str], number: int) -> Job:
        composed = self._context.config_loader.load_sweep_config(self._config, list(overrides))
        with open_dict(composed):
            composed.hydra.job.id = composed.hydra.job.num = number
        HydraConfig.instance().set_config(composed)  # for `${hydra:job.num}` in a folder's name
        folder = self._sweep / str(OmegaConf.select(composed, "hydra.sweep.subdir"))
        return Job(composed, folder, self._sweep)

    def _refuse_run_of_another(self, job: Job) -> None:
        """Refuses ``resume=RUN`` of a run that another job continues."""
        folder = None
        with suppress(*USER_ERRORS):  # which the job tells itself
            folder = resumed_folder(job.config)
        if folder in self._resumed:
            raise ValueError(
                f"resume={job.config.resume}: several jobs would continue this run: give each a "
                f"run of its own (resume=RUN,OTHER), or start each from its weights, init_from="
                f"{job.config.resume}"
            )
        self._resumed |= set() if folder is None else {folder}

    def _with_former(self, planned: list[_Planned], begins: bool) -> list[Job]:
        taken: dict[int, Path] = {}
        for goes_on in (_is_own, _is_same, _may_resume, _failed):
            for number, one in enumerate(planned):
                if number not in taken and (found := self._take(one, goes_on)) is not None:
                    taken[number] = found
        for number, one in enumerate(planned):
            if number not in taken and one.settings is not None:
                refuse_other_job(one.settings, one.job.folder)
        if begins and not taken:
            self._refuse_other_sweep(planned)
        if self._are_all():
            self._refuse_mixture([(planned[number], folder) for number, folder in taken.items()])
        return [
            replace(one.job, folder=taken.get(number, one.job.folder))
            for number, one in enumerate(planned)
        ]

    def _take(self, one: _Planned, goes_on: Callable[[_Planned, Path], bool]) -> Path | None:
        assert self._left is not None
        found = next((folder for folder in self._left if goes_on(one, folder)), None)
        if found is not None:
            self._left.remove(found)
        return found

    def _are_all(self) -> bool:
        """Whether all jobs are known at once; Optuna makes them as it goes."""
        sweeper = self._config.hydra.sweeper
        whole = sweeper.get("max_batch_size") is None
        return whole and str(sweeper._target_).endswith(".BasicSweeper")

    def _refuse_mixture(self, resumed: list[tuple[_Planned, Path]]) -> None:
        """Refuses new settings for some jobs of the folder, if others would keep the former."""
        left = {f: flat(former_settings(f)) for f in self._runs_left()}
        for one, folder in resumed:
            if not left or one.settings is None or not holds_run(folder):
                continue
            former = former_settings(folder)
            for key, old, new in differences(former, one.settings):
                for other, settings in left.items():
                    if settings.get(key, ABSENT) == old:
                        raise ValueError(
                            f"{other} is a job of other settings "
                            f"({told_differences([(key, old, new)])}) and not in this sweep: give "
                            f"all jobs of the folder, or {another_folder()}"
                        )

    def _runs_left(self) -> list[Path]:
        return [folder for folder in self._left or () if holds_run(folder)]

    def _refuse_other_sweep(self, planned: list[_Planned]) -> None:
        runs = self._runs_left()
        known = [one for one in planned if one.settings is not None]
        if not runs or not known:
            return
        found = [(differences(former_settings(runs[0]), one.settings or {}), one) for one in known]
        different, nearest = min(found, key=lambda pair: len(pair[0]))
        raise ValueError(
            f"{self._sweep} holds another sweep: its job {runs[0].name} is not "
            f"{nearest.job.folder.name} ({told_differences(different)}), nor are others the same: "
            f"give {another_folder()}"
        )


def _is_own(one: _Planned, folder: Path) -> bool:
    return folder == one.job.folder and _is_same(one, folder)


def _is_same(one: _Planned, folder: Path) -> bool:
    return one.settings is not None and is_same_job(one.settings, folder)


def _may_resume(one: _Planned, folder: Path) -> bool:
    return (
        one.settings is not None
        and _unnumbered(folder) == _unnumbered(one.job.folder)
        and holds_run(folder)
        and not why_other(one.settings, folder)
    )


def _failed(one: _Planned, folder: Path) -> bool:
    """Whether the job failed there before its run began."""
    return _unnumbered(folder) == _unnumbered(one.job.folder) and not holds_run(folder)


def _unnumbered(folder: Path) -> str:
    return _NUMBERED.sub("", folder.name, count=1)


def _numbered(sweep: Path) -> list[Path]:
    """Folders of jobs, by number."""
    found = [folder for folder in sweep.glob("*_*") if folder.is_dir()]
    jobs = [folder for folder in found if _NUMBERED.match(folder.name)]
    return sorted(jobs, key=lambda folder: (int(folder.name.partition("_")[0]), folder.name))


def _overrides(job: Job) -> list[str]:
    return [str(override) for override in job.config.hydra.overrides.task]


def _settings(job: Job) -> dict[str, Any] | None:
    names = [str(name) for name in job.config if name != "hydra"]
    with suppress(*USER_ERRORS):
        run = with_settings_of_start(
            with_settings_of_run(OmegaConf.masked_copy(job.config, names), _overrides(job)),
            _overrides(job),
        )
        settings: Any = OmegaConf.to_container(run, resolve=True, throw_on_missing=True)
        return settings
    return None
