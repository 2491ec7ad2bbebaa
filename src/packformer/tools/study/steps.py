"""The steps that the runs of a study take, which must not change while it is continued."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from packformer.command_line.composition import compose_plain
from packformer.study.run_record import Run, read_runs
from packformer.tools.study.matching import settings_of_run


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
    settings = [compose_plain(settings_of_run(command)) for command in commands]
    asked = {each["trainer"]["max_steps"] for each in settings}
    for run in planned:
        if run.steps_asked not in asked:
            steps = " or ".join(f"{number:,}" for number in sorted(asked))
            raise ValueError(
                f"trainer.max_steps is {steps}, and {run.folder} was to take {run.steps_asked:,}: "
                "runs that are trained on cannot be compared with others: give another --output"
            )
