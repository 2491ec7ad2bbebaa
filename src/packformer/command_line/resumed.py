"""Settings beside ``resume=RUN`` that the run has, and the default configuration has not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from packformer.command_line.grammar import read_value
from packformer.run.resume import (
    CONFIG_FILE,
    find_checkpoint,
    flat,
    is_part,
    read_configuration,
    run_folder,
)


def with_settings_added(overrides: Sequence[str]) -> list[str]:
    """The overrides, with ``++`` before settings of the resumed run: Hydra adds what it lacks.

    So ``resume=RUN optimizer.momentum=0.9`` need not say ``optimizer=muon``.

    Args:
        overrides: of the command line; other arguments of it may be among them.
    """
    known = _settings_of_run(overrides)
    return [
        f"++{override}" if _is_known(override.partition("=")[0], known) else override
        for override in overrides
    ]


def _is_known(name: str, known: Sequence[str]) -> bool:
    return "." in name and any(is_part(key, (name,)) for key in known)


def _settings_of_run(overrides: Sequence[str]) -> Sequence[str]:
    """Names of those of the run that ``resume`` names; none if it names no run, or several."""
    given = [o.partition("=")[2] for o in overrides if o.partition("=")[0].lstrip("+") == "resume"]
    resume = read_value(given[-1]) if given else None
    if resume in (None, "", "auto", "never") or not isinstance(resume, str | int | float):
        return ()
    try:
        checkpoint = find_checkpoint(str(resume), Path(), {})
    except ValueError:  # told once the configuration is composed
        return ()
    folder = None if checkpoint is None else run_folder(checkpoint)
    return () if folder is None else tuple(flat(read_configuration(folder / CONFIG_FILE)))
