"""The ladder of a study: a power law for each variant, and the size that was held out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from packformer.study.comparison import LOSS, finished
from packformer.study.power_law import PowerLaw, fit_power_law
from packformer.study.variants import Variant, shown_size


@dataclass(frozen=True)
class Rung:
    """A variant at a size.

    Attributes:
        size: value of the setting.
        parameters: of the model.
        losses: final validation loss of each seed.
        held_out: whether the law was fitted without it.
    """

    size: str
    parameters: float
    losses: tuple[float, ...]
    held_out: bool

    @property
    def mean(self) -> float:
        """Of the losses."""
        return sum(self.losses) / len(self.losses)


@dataclass(frozen=True)
class Ladder:
    """A variant over sizes.

    Attributes:
        label: of the variant.
        rungs: by parameters, without sizes that no run finished.
        law: fitted to the rungs that are not held out; None of fewer than two.
        size_setting: that makes the sizes.
        is_tuned: whether each size has a value of its own of a setting that was tuned.
    """

    label: str
    rungs: tuple[Rung, ...]
    law: PowerLaw | None
    size_setting: str
    is_tuned: bool = False

    def error(self, rung: Rung) -> float:
        """Of the prediction, relative to what was measured."""
        return math.nan if self.law is None else float(self.law(rung.parameters)) / rung.mean - 1


def ladders(variants: Sequence[Variant], hold_out: int) -> list[Ladder]:
    """A ladder for each label, in order.

    Args:
        variants: of several sizes.
        hold_out: how many of the largest sizes are predicted instead of fitted.
    """
    found = []
    settings = {variant.label: variant.size_setting for variant in variants}
    for label, setting in settings.items():
        rungs = [(v, finished(v)) for v in variants if v.label == label]
        known = sorted(
            (runs[0].figure("parameters"), v.size, tuple(r.figure(LOSS) for r in runs))
            for v, runs in rungs
            if runs and math.isfinite(runs[0].figure("parameters"))
        )
        steps = tuple(
            Rung(size, parameters, losses, place >= len(known) - hold_out)
            for place, (parameters, size, losses) in enumerate(known)
        )
        points = [(r.parameters, loss) for r in steps if not r.held_out for loss in r.losses]
        law = fit_power_law([p for p, _ in points], [loss for _, loss in points])
        is_tuned = any(v.tuned for v, _ in rungs)
        found.append(Ladder(label, steps, law, setting, is_tuned))
    return found


def prediction_of(ladder: Ladder, rung: Rung) -> str:
    """What the law, which is there, says of a size that it was fitted without, in a sentence."""
    assert ladder.law is not None
    size = shown_size(ladder.size_setting, rung.size)
    return (
        f"{ladder.label}: for {size} the law predicts a loss of "
        f"{float(ladder.law(rung.parameters)):.4f}; {rung.mean:.4f} was measured: "
        f"{ladder.error(rung):+.2%}."
    )


def sentence_of(ladder: Ladder) -> str:
    """The law and what it predicted, in words."""
    if ladder.law is None:
        return f"{ladder.label}: a law needs at least two sizes that are not held out."

    def at(rung: Rung) -> str:
        return shown_size(ladder.size_setting, rung.size)

    law = ladder.law
    form = "E + A N^-alpha" if law.has_floor else "A N^-alpha, without E: that needs four sizes"
    words = f"{ladder.label}: L(N) = {form}; alpha = {law.exponent:.3f}"
    if law.has_floor:
        words += f", E = {law.floor:.3f}"
    words += f", fitted to {law.sizes} sizes ({law.points} runs)."
    for rung in ladder.rungs:
        if rung.held_out:
            low, high = law.interval(rung.parameters, len(rung.losses))
            told = f", 95 % interval {low:.4f} to {high:.4f}" if math.isfinite(low) else ""
            words += (
                f" For {at(rung)} ({rung.parameters:,.0f} parameters), which was held out, it "
                f"predicts {float(law(rung.parameters)):.4f}{told}; measured {rung.mean:.4f}: "
                f"{ladder.error(rung):+.2%}."
            )
    for smaller, larger in pairwise(ladder.rungs):
        if larger.mean > smaller.mean:
            advice = "or with more seeds"
            if not ladder.is_tuned:
                advice = "with more seeds, or with a learning rate for each size (--tune)"
            return (
                f"{words} But {at(larger)} ({larger.mean:.4f}) is no better than {at(smaller)} "
                f"({smaller.mean:.4f}), so no law of this form describes them. Train longer, "
                f"{advice}."
            )
    return words
