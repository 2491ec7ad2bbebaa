"""What a study says in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from packformer.counted import counted
from packformer.study.comparison import (
    BETTER,
    NOT_COMPARED,
    NOT_TOLD,
    REFERENCE,
    UNKNOWN,
    WORSE,
    Comparison,
)
from packformer.study.ladder import Ladder, prediction_of
from packformer.study.run_record import DAMAGED
from packformer.study.statistics import MOST_SEEDS, POWER, Mean
from packformer.study.tuning import Tuned, Tuning

NAMED = 3
"""Variants that a headline names, at most."""


def headline(
    found: Sequence[Comparison],
    reference: str,
    steps: Sequence[Ladder] = (),
    left: Sequence[str] = (),
) -> str:
    """The answer in a sentence, after what has not begun.

    Args:
        found: all variants.
        reference: label of the one that others are compared with.
        steps: ladders of the study, of which one alone is the answer.
        left: names of variants that no run has begun of.
    """
    if not left:
        return _answer(found, reference, steps)
    names = listed(left)
    if len(left) > NAMED:
        names = f"{len(left)} of {len(left) + len(found)} variants"
    told = f"No run of {names} has begun"
    if len(found) == 1 and found[0].verdict == REFERENCE:
        return f"{told}: nothing is compared yet."
    return f"{told}. {_answer(found, reference, steps)}"


def _answer(found: Sequence[Comparison], reference: str, steps: Sequence[Ladder]) -> str:
    others = [one for one in found if one.verdict != REFERENCE]
    if not others:
        predicted = [rung for one in steps if one.law for rung in one.rungs if rung.held_out]
        if predicted:
            return prediction_of(steps[0], predicted[-1])
        sizes = f" in {len(found)} sizes" if len(found) > 1 else ""
        return f"There is one variant, {reference}{sizes}: nothing is compared."
    parts, it = [], reference
    for verdict, words in (
        (BETTER, "better than"),
        (WORSE, "worse than"),
        (NOT_TOLD, "not told apart from"),
    ):
        names = [one.variant.name for one in others if one.verdict == verdict]
        if names:
            parts.append(f"{listed(names)} {'is' if len(names) == 1 else 'are'} {words} {it}")
            it = "it"
    if not parts:
        names = [one.variant.name for one in others]
        return f"This study cannot compare {listed(names)} with {reference}."
    text = "; ".join(parts)
    rest = [one.variant.name for one in others if one.verdict in (UNKNOWN, NOT_COMPARED)]
    tail = f"; nothing can be said of {listed(rest)}" if rest else ""
    return f"{text}{tail}."


def sentences(
    found: Sequence[Comparison], reference: str, *, alone: bool
) -> list[tuple[Comparison, str]]:
    """What can be said of each variant.

    Args:
        found: all variants.
        reference: label of the one that others are compared with.
        alone: whether it is the only one: then it is not called a reference, and of its sizes only
            those are named of which there is more to say than the table does.
    """
    told = [one for one in found if not alone or len(found) == 1 or one.missing or one.remarks]
    return [(one, sentence(one, "" if alone else reference)) for one in told]


def sentence(one: Comparison, reference: str) -> str:
    """What can be said of a variant; without a reference, what is known of it alone."""
    words = _verdict(one, reference) if reference else f"{one.variant.name}{_alone(one)}."
    if one.missing:
        words += f" Not in these figures: {'; '.join(one.missing)}."
    if one.remarks and one.verdict not in (NOT_COMPARED,):
        words += f" Mind: {'; '.join(one.remarks)}."
    return words


def how_matched(found: Sequence[Comparison]) -> list[str]:
    """How variants were made as large as the reference; empty if they were not."""
    told = [one.variant.matched for one in found if one.variant.matched]
    what = "Variants were made as large as the reference, without embedding, head and tables:"
    return [what, *told] if told else []


def how_tuned(tuning: Tuning) -> str:
    """How the values of variants were chosen."""
    return (
        f"Each variant has the {tuning.setting} that gave it the lowest final validation loss with "
        f"seed {tuning.seed}, which is not compared:"
    )


def ends_of_tuning(tuned: Sequence[Tuned]) -> list[str]:
    """Warnings of best values that may not be the best."""
    names: dict[tuple[str, str, str], list[str]] = {}
    for one in tuned:
        if one.best is not None and (what := _end(one)):
            names.setdefault((one.setting, one.best.value, what), []).append(one.name)
    return [
        f"The best {setting} of {_all(several, tuned)}, {value}, is the {what}."
        for (setting, value, what), several in names.items()
    ]


def _end(one: Tuned) -> str:
    """Why a better value may not have been tried; empty if there are worse ones on both sides."""
    if len(one.trials) > len(one.known) == 1:
        return "only one whose run finished, so nothing was chosen: try others"
    if one.end and not one.is_end_of_all:
        return f"{one.end} whose run finished: try others near it"
    larger = "larger" if one.end == "largest" else "smaller"
    return one.end and f"{one.end} that was tried: try {larger} ones"


def _all(names: Sequence[str], tuned: Sequence[Tuned]) -> str:
    return "all variants" if NAMED < len(names) == len(tuned) else listed(names)


def _verdict(one: Comparison, reference: str) -> str:
    name, seeds = one.variant.name, counted(one.seeds, "seed")
    mean, p = one.difference.mean, _p(one.p_value)
    if one.verdict == REFERENCE:
        return f"{name} is the reference{_alone(one)}."
    if one.verdict == NOT_COMPARED:
        return f"{name} is not compared: {'; '.join(one.remarks)}."
    if one.verdict == UNKNOWN:
        return f"{name}: {_unknown(one, reference)}"
    size = f"{_amount(mean.value)} nats per token ({abs(one.difference.relative):.2%})"
    if one.verdict in (BETTER, WORSE):
        way = "lower" if one.verdict == BETTER else "higher"
        interval = f"95 % interval {mean.low:+.4f} to {mean.high:+.4f}"
        return (
            f"{name} is {one.verdict} than {reference}: its loss is {size} {way} over {seeds} "
            f"({interval}, {p})."
        )
    return (
        f"{name} is not told apart from {reference} by {seeds}: {_seen(mean, size)} ({p}). "
        f"{_more_seeds(one)}"
    )


def _seen(mean: Mean, size: str) -> str:
    if mean.value == 0:
        return f"the {'mean losses' if mean.deviation else 'losses'} are exactly equal"
    return f"its loss came out {size} {'higher' if mean.value > 0 else 'lower'}"


def _amount(value: float) -> str:
    """Without the sign; what is no zero is not told as one."""
    return "less than 0.0001" if 0 < abs(value) < 0.00005 else f"{abs(value):.4f}"


def _more_seeds(one: Comparison) -> str:
    value = one.difference.mean.value
    if value == 0 or math.isnan(one.detectable):
        return "No number of seeds tells a difference of zero." if value == 0 else ""
    chance = f"a probability of {POWER * 100:.0f} %"
    if f"{abs(one.difference.relative):.2%}" == "0.00%":  # seeds would show nothing worth it
        seeds = counted(one.seeds, "seed")
        return f"With {chance}, {seeds} show a difference of about {one.detectable:.4f} or more."
    if one.needed is None:
        needed = f"It would take more than {MOST_SEEDS:,} seeds to show so small a difference"
    else:
        seeds = counted(one.needed, "seed")
        needed = f"If the difference is really this large, about {seeds} would show it"
    return (
        f"{needed} with {chance}. With the same probability, {one.seeds:,} seeds show a difference "
        f"of about {one.detectable:.4f} or more."
    )


def _unknown(one: Comparison, reference: str) -> str:
    if not one.loss.count:
        return f"no {_lacking(one, '')}, so nothing can be said."
    if not one.seeds:
        return f"no seed is finished both here and in {reference}, so nothing can be said."
    if one.seeds == 1:
        value = one.difference.mean.value
        way = f"{_amount(value)} {'higher' if value > 0 else 'lower'} than"
        return (
            f"its loss is {way if value else 'exactly equal to'} that of {reference} in the one "
            "seed that both have. One seed cannot tell whether that is chance: run at least 3."
        )
    return "its seeds do not differ, so it is not known what chance does."


def _alone(one: Comparison) -> str:
    loss = one.loss
    if not loss.count:
        return f", and no {_lacking(one, ' of it')}"
    spread = "" if loss.count < 2 else f" (standard deviation between seeds {loss.deviation:.4f})"
    return f": its loss is {loss.value:.4f} over {counted(loss.count, 'seed')}{spread}"


def _lacking(one: Comparison, of_it: str) -> str:
    damaged = any(run.state == DAMAGED for run in one.variant.runs)
    return f"finished run{of_it} can be read" if damaged else f"run{of_it} is finished"


def _p(value: float) -> str:
    return "p < 0.0001" if value < 0.0001 else f"p = {value:.2g}"


def listed(names: Sequence[str]) -> str:
    """Joined by commas and an "and"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
