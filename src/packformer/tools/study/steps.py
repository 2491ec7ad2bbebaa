"""The steps that the runs of a study take, which must not change while it is continued."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from omegaconf import OmegaConf

from packformer.command_line.composition import compose
from packformer.study.run_record import Run, read_runs
from packformer.tools.study.matching import settings_of_run

_SETTING = "trainer.max_steps"


def refuse_other_steps(folder: Path, commands: Sequence[Sequence[str]]) -> None:
    """Refuses to train runs on that were planned for other steps.

    A single run may be trained on. In a study it would stand beside runs whose schedule had that
    length from the beginning, as one of them.

    Args:
        folder: of the study.
        commands: overrides of each variant at each size.

    Raises:
        ValueError: naming one of those runs.
    """
    runs: list[Run] = []
    with suppress(ValueError):  # there is none yet
        runs = read_runs(folder)
    planned = [run for run in runs if run.steps_asked is not None]
    if not planned:
        return
    asked = {OmegaConf.select(compose(settings_of_run(command)), _SETTING) for command in commands}
    for run in planned:
        if run.steps_asked not in asked:
            steps = " or ".join(f"{number:,}" for number in sorted(asked))
            raise ValueError(
                f"{_SETTING} is {steps}, and {run.folder} was to take {run.steps_asked:,}: runs "
                "that are trained on cannot be compared with others: give another --output"
            )
