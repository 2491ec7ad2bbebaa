"""A setting of which each variant has a value of its own, found by runs of a seed of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from packformer.study.comparability import obstacle
from packformer.study.comparison import LOSS, is_finished, problem_of
from packformer.study.run_record import Run

TUNING_FOLDER = "tuning"
"""Of the runs that try values, in the folder of their variant."""


@dataclass(frozen=True)
class Tuning:
    """What is tuned.

    Attributes:
        setting: its name.
        values: that are tried, as a sweep writes them.
        seed: of the runs that try them.
    """

    setting: str
    values: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class Trial:
    """A value that was tried.

    Attributes:
        value: of the setting.
        loss: final validation loss; NaN without one.
        problem: why there is none, in words; empty if there is.
    """

    value: str
    loss: float
    problem: str = ""


@dataclass(frozen=True)
class Tuned:
    """The value of a variant.

    Attributes:
        name: of the variant, with its size.
        setting: that is tuned.
        trials: all values, in their order.
        obstacle: why their losses mean different things; empty if they do not.
        runs: that tried them and have a loss.
    """

    name: str
    setting: str
    trials: tuple[Trial, ...]
    obstacle: str = ""
    runs: tuple[Run, ...] = ()

    @property
    def best(self) -> Trial | None:
        """The one of the lowest loss; None if no loss is known, or they cannot be compared."""
        known = self.known
        return min(known, key=lambda one: one.loss) if known and not self.obstacle else None

    @property
    def known(self) -> list[Trial]:
        """Those that have a loss."""
        return [one for one in self.trials if not one.problem]

    @property
    def end(self) -> str:
        """``largest`` or ``smallest`` if the best value is that of all with a loss, or empty."""
        return _end(self.best, self.known)

    @property
    def is_end_of_all(self) -> bool:
        """Whether no value without a loss lies beyond the best one, at its end."""
        return _end(self.best, self.trials) == self.end

    @property
    def told(self) -> str:
        """What was chosen, and the loss of each value."""
        losses = [f"{one.value}: {one.problem or f'{one.loss:.4f}'}" for one in self.trials]
        chosen = "no value yet" if self.best is None else f"{self.setting}={self.best.value}"
        return f"{self.name}: {chosen} ({'; '.join(losses)})"


def tuned_by(name: str, tuning: Tuning, runs: Sequence[Run]) -> Tuned:
    """What the runs of a variant tell.

    Args:
        name: of the variant, with its size.
        tuning: what is tuned.
        runs: that tried values; those of values that are not asked for are left out.
    """
    of_value = {run.given.get(tuning.setting): run for run in runs}
    known = [of_value[value] for value in tuning.values if value in of_value]
    ended = [run for run in known if is_finished(run)]
    obstacles = filter(None, (obstacle(run, ended[0]) for run in ended[1:]))
    trials = tuple(_trial(value, of_value.get(value)) for value in tuning.values)
    return Tuned(name, tuning.setting, trials, next(obstacles, ""), tuple(ended))


def tuned_elsewhere(tuned: Sequence[Tuned], runs: Mapping[str, Sequence[Run]]) -> list[str]:
    """Variants whose values were tried on other data than they are compared on, in sentences.

    Args:
        tuned: the value of each variant.
        runs: that are compared and have a loss, by the variant's name.
    """
    found = []
    for one in tuned:
        compared = runs.get(one.name, ())
        why = next(filter(None, (obstacle(run, one.runs[0]) for run in compared if one.runs)), "")
        if why:
            found.append(
                f"{one.setting} of {one.name} was tuned on something else than it is compared on: "
                f"{why}."
            )
    return found


def _end(best: Trial | None, trials: Sequence[Trial]) -> str:
    with suppress(ValueError):  # a word
        numbers = [float(one.value) for one in trials]
        if best is not None:
            return {max(numbers): "largest", min(numbers): "smallest"}.get(float(best.value), "")
    return ""


def _trial(value: str, run: Run | None) -> Trial:
    if run is None:
        return Trial(value, math.nan, "has not begun")
    problem = problem_of(run)
    return Trial(value, math.nan if problem else run.figure(LOSS), problem)
