"""``packformer train`` and ``python -m train``: Hydra composes, errors become one line."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from packformer import completion
from packformer.command_line.checks import check_configuration, check_given
from packformer.command_line.errors import is_user_error, keep_traceback, one_line, records_of
from packformer.command_line.groups import refuse_removed, refuse_two_experiments
from packformer.command_line.ignored_layers import refuse_ignored
from packformer.command_line.imports import import_training, is_imported_otherwise
from packformer.command_line.overrides import (
    asks_for_sweep,
    refuse_altered_text,
    refuse_lost_lists,
    settings_last,
)
from packformer.command_line.resumed import with_settings_added
from packformer.compilers import Compilers, compilers_ahead
from packformer.data.ahead import Ahead, prepared_ahead
from packformer.masking import mask_messages
from packformer.path_kind import too_long
from packformer.ranks.ending import (
    end_with_parent,
    ends_when_interrupted,
    is_several,
    own_folder,
    quiet_other_ranks,
    tell,
)
from packformer.ranks.launched import check_processes, launched, refuse_sweep_of_ranks
from packformer.ranks.others import devices_before_torch, forget_others
from packformer.run.chosen import own_places
from packformer.run.continued import with_settings_of_run
from packformer.run.naming import register_folder_suffix, run_name
from packformer.run.of_sweep import in_sweep
from packformer.run.own_ranks import start_own_ranks
from packformer.run.process_state import restore_torch
from packformer.run.secrets import refuse_secrets
from packformer.run.start import with_settings_of_start
from packformer.run.start_times import StartTimes
from packformer.sweeps.former import finished_before, goes_on
from packformer.sweeps.jobs import Job, end_workers, failures, run_jobs
from packformer.sweeps.kinds import is_over_several
from packformer.sweeps.launchers import register_launchers
from packformer.sweeps.table import write_failure
from packformer.sweeps.traces import remove_traces

log = logging.getLogger(__name__)

_EXIT_FAILURE = 1
_DEVICES = ("devices", "accelerator")
_FOLDERS = ("output_dir", "hydra.run.dir", "hydra.sweep.dir")
_DEFAULT_FOLDER = "output_dir=runs"
_command: list[str] = []
_began: list[float] = []  # of the command, until its first job takes it


@hydra.main(version_base="1.3", config_path="pkg://packformer.conf", config_name="config")
def _job(config: DictConfig) -> float:
    """One run. A failure is reported and remembered; a sweep continues with the next job."""
    sys.argv = _command.copy()
    times = StartTimes(_began.pop() if _began else time.perf_counter())
    former = records_of(Path(HydraConfig.get().runtime.output_dir))
    try:
        config = with_settings_of_run(config, HydraConfig.get().overrides.task)
        check_given(config)
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            asked = [OmegaConf.select(config, f"trainer.{name}") for name in _DEVICES]
            start_own_ranks(devices_before_torch(*asked))
        refuse_ignored(config, HydraConfig.get().overrides.task)
        config = with_settings_of_start(config, HydraConfig.get().overrides.task)
        _check(config)
        if in_sweep():
            value = _of_earlier_sweep(config)
            if value is None and _needs_processes(config):
                value = _in_own_process(config)
            if value is not None:
                return value
        with _data_ahead(config) as ahead, _compilers_ahead(config) as compilers:
            _import(config)
            from packformer.run.train import train

            times.ended("imports")
            return train(config, times, ahead, compilers)
    except KeyboardInterrupt:
        with suppress(OSError):  # before anything was written the folder is empty
            Path(HydraConfig.get().runtime.output_dir).rmdir()
        raise
    except Exception as error:
        forget_others()  # so that this process tells the error as one that is alone
        hydra_config = HydraConfig.get()
        folder = Path(hydra_config.runtime.output_dir)
        place = None
        if own_folder():
            place = keep_traceback(error, folder, former, in_sweep=in_sweep())
        expected = is_user_error(error)
        if "PACKFORMER_FULL_ERROR" in os.environ or not (expected or in_sweep() or is_several()):
            raise
        kind = "" if expected else f"{type(error).__name__}: "
        # As they were given: a reference to a group would be shown as all of its settings.
        given: Any = OmegaConf.to_container(hydra_config.overrides.task, resolve=False)
        places = own_places(HydraConfig.instance().cfg)
        failures.append(kind + one_line(error, [*places, *given]))
        if in_sweep() and folder.is_dir():
            write_failure(folder, run_name(config), failures[-1], given)
        hint = f" (traceback: {place})" if place else ""
        trace = "" if expected or in_sweep() else traceback.format_exc()
        tell(error, f"{failures[-1]}{hint}", trace)
        return math.nan


def _of_earlier_sweep(config: DictConfig) -> float | None:
    """The objective of a job that finished in this folder before; one that stopped is resumed.

    The launchers refuse other settings before the first job. With those of others a job does.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    value = finished_before(config, folder)
    if value is not None:
        print(f"job {folder.name} finished before", flush=True)
    elif goes_on(config, folder):
        OmegaConf.update(config, "resume", str(folder))
    return value


def _needs_processes(config: DictConfig) -> bool:
    """Whether a job cannot run in the sweep's own process: it trains on several devices, or torch
    was imported there with another value of ``deterministic``."""
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        return False
    check_processes(1, 1, in_sweep=True)
    return is_over_several(config) or is_imported_otherwise(bool(config.deterministic))


def _in_own_process(config: DictConfig) -> float:
    hydra = HydraConfig.get()
    whole = config.copy()
    with open_dict(whole):
        whole.hydra = hydra
    job = Job(whole, Path(hydra.runtime.output_dir), Path(hydra.sweep.dir))
    (value,) = run_jobs([job], [{}])
    return value


def _data_ahead(config: DictConfig) -> AbstractContextManager[Ahead]:
    """Prepares text meanwhile, unless torch is there already or other ranks would do the same."""
    if "torch" in sys.modules or _has_equals():
        return nullcontext(Ahead())
    data: Any = OmegaConf.to_container(config.data, resolve=True)
    return prepared_ahead(data)


def _compilers_ahead(config: DictConfig) -> AbstractContextManager[Compilers]:
    """Starts processes that compile, likewise."""
    if "torch" in sys.modules or _has_equals():
        return closing(Compilers())
    settings: Any = OmegaConf.to_container(config, resolve=True)
    return compilers_ahead(settings)


def _has_equals() -> bool:
    """Whether other ranks do what this one does."""
    return "LOCAL_RANK" in os.environ or launched() is not None


def _import(config: DictConfig) -> None:
    """Imports what trains, which is slow: not before the configuration fits."""
    if in_sweep():
        restore_torch()
    settings: Any = OmegaConf.to_container(config, resolve=True)
    # A sweep's next job may need what this one does not.
    own = None if HydraConfig.get().mode == RunMode.MULTIRUN else settings
    import_training(bool(config.deterministic), own)


def _check(config: DictConfig) -> None:
    settings: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    overrides = HydraConfig.get().overrides
    refuse_secrets(settings, [*overrides.task, *overrides.hydra])
    check_configuration(settings, [*own_places(HydraConfig.instance().cfg), *overrides.task])
    hydra_config = HydraConfig.get()
    if not in_sweep() and hydra_config.sweeper.get("params"):
        raise ValueError("a sweep needs -m: packformer train -m ...")


def _of_folder(error: Exception, given: Sequence[str]) -> str | None:
    """What to say if a folder of the user's cannot be made; None if that is not the reason.

    A name that is too long need not be of that folder: ``one_line`` names its setting.
    """
    if too_long(error) or not isinstance(error, OSError) or not isinstance(error.filename, str):
        return None
    for override in (*given, _DEFAULT_FOLDER):
        name, _, folder = override.partition("=")
        if name in _FOLDERS and Path(error.filename).is_relative_to(folder):
            return f"{name} ({folder}): {error.strerror}: name a folder that can be made"
    return None


def _missing_folders(given: Sequence[str]) -> list[Path]:
    """Folders in which Hydra would make that of the run and which are not there, inner ones first.

    Args:
        given: overrides of the command line.
    """
    missing = set()
    for override in (*given, _DEFAULT_FOLDER):
        name, _, folder = override.partition("=")
        if name in _FOLDERS:
            # Unlike Path.exists, os.path.exists takes any path, however long.
            place = Path(folder.strip("'\""))
            missing |= {path for path in (place, *place.parents) if not os.path.exists(path)}
    return sorted(missing, key=lambda path: len(path.parts), reverse=True)


def main(arguments: Sequence[str] | None = None, began: float | None = None) -> None:
    """Runs the command line; exits with 1 if a run failed.

    Args:
        arguments: settings and options of Hydra; None for all that the process was started with.
        began: when the command did, as ``time.perf_counter`` counts; None for now.
    """
    started = sys.argv
    given = started[1:] if arguments is None else list(arguments)
    failures.clear()
    _began[:] = [time.perf_counter() if began is None else began]
    register_folder_suffix()
    register_launchers()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors are shortened below instead
    # Hydra reads sys.argv, without the name of a command; what starts other ranks, with it.
    _command[:] = started
    quiet_other_ranks()
    end_with_parent()
    mask_messages()
    missing = _missing_folders(given)
    try:
        refuse_secrets({}, given)  # before Hydra writes them to a sweep's folder
        refuse_altered_text(given)
        refuse_removed(given)
        refuse_two_experiments(given)
        refuse_lost_lists(given)
        if asked := completion.script(given):
            print(asked)
            return
        if asks_for_sweep(given):
            refuse_sweep_of_ranks()  # before Hydra makes the sweep's folder
        if not own_folder():
            given.append("hydra.run.dir=${output_dir}")
        sys.argv = [started[0], *settings_last(with_settings_added(given))]
        with ends_when_interrupted():
            _job()
    except Exception as error:
        if not is_user_error(error) or "PACKFORMER_FULL_ERROR" in os.environ:
            raise
        tell(error, _of_folder(error, given) or one_line(error, given))
        sys.exit(_EXIT_FAILURE)
    finally:
        sys.argv = started
        remove_traces()
        for folder in missing:
            with suppress(OSError):  # a run is in it
                folder.rmdir()
        forget_others()
        end_workers()
    if failures:
        sys.exit(_EXIT_FAILURE)
