"""Whether a run is a job of a sweep, of which, and what its jobs differ in."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from packformer.ranks.launched import OF_COMMAND, PARENT, SWEEP
from packformer.run.shown_override import shown_override

_FIXED = "PACKFORMER_FIXED_SETTINGS"


def in_sweep() -> bool:
    """Whether the run of this process is a job of a sweep."""
    return HydraConfig.get().mode == RunMode.MULTIRUN or SWEEP in os.environ


def sweep_folder() -> Path | None:
    """The sweep's, if this run is a job of one."""
    if folder := os.environ.get(SWEEP):
        return Path(folder)
    return Path(HydraConfig.get().sweep.dir) if in_sweep() else None


def of_this_command() -> dict[str, str]:
    """The environment of a sweep that this command starts and continues, and that ends with it."""
    return {OF_COMMAND: "1", PARENT: str(os.getpid())}


def fixed_settings() -> list[str] | None:
    """Names of the settings that the command line gives to all jobs of the sweep alike.

    None outside of a sweep, and with a launcher that does not tell.
    """
    told = os.environ.get(_FIXED)
    return None if told is None else json.loads(told)


@contextmanager
def with_fixed_settings(names: Sequence[str]) -> Iterator[None]:
    """Tells jobs, those in other processes too, what is alike in all of them."""
    former = os.environ.get(_FIXED)
    os.environ[_FIXED] = json.dumps(list(names))
    try:
        yield
    finally:
        if former is None:
            del os.environ[_FIXED]
        else:
            os.environ[_FIXED] = former


def another_folder() -> str:
    """What to give a sweep that would not fit into its folder, in words."""
    return f"another {'--output' if OF_COMMAND in os.environ else 'hydra.sweep.dir'}"


def to_go_on(folder: Path) -> str:
    """What to do after an interruption of the run in ``folder``, or of its sweep."""
    sweep = sweep_folder()
    if sweep is None:
        return f"interrupted: continue with {shown_override('resume', str(folder))}"
    if OF_COMMAND in os.environ:
        return "interrupted: the same command continues"
    where = shown_override("hydra.sweep.dir", str(sweep))
    return f"interrupted: continue with the same command and {where}"
