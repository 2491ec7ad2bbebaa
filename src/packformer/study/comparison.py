"""Variants compared with the reference, seed by seed, and what can be said of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from packformer.study.comparability import cautions, obstacle
from packformer.study.run_record import DAMAGED, FAILED, FINISHED, UNFINISHED, Run
from packformer.study.statistics import (
    LEVEL,
    Difference,
    Mean,
    detectable,
    difference_of,
    holm,
    mean_of,
    seeds_needed,
)
from packformer.study.variants import Variant, name_at

REFERENCE, BETTER, WORSE = "reference", "better", "worse"
NOT_TOLD, UNKNOWN, NOT_COMPARED = "not told apart", "cannot be told", "not compared"
LOSS, BITS = "val/loss", "val/bits_per_byte"


@dataclass(frozen=True)
class Comparison:
    """A variant beside the reference of its size.

    Attributes:
        variant: that is compared.
        verdict: one of the words above.
        loss: final validation loss over its finished runs, nats per token.
        bits: the same in bits per byte; NaN where that is not known.
        difference: of the loss from the reference, over seeds that both finished.
        bits_difference: the same of bits per byte.
        p_value: corrected for all comparisons of the study (Holm); NaN of the reference.
        seeds: paired seeds.
        needed: seeds that would tell a difference of the size that was seen; None if more than
            ``MOST_SEEDS``, or not known.
        detectable: the difference that these seeds tell with a probability of 80 %.
        missing: runs that are not finished, told in words.
        remarks: what must be said beside the verdict.
    """

    variant: Variant
    verdict: str
    loss: Mean
    bits: Mean
    difference: Difference
    bits_difference: Difference
    p_value: float = math.nan
    seeds: int = 0
    needed: int | None = None
    detectable: float = math.nan
    missing: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def is_finished(run: Run) -> bool:
    """Whether it has a final validation loss."""
    return run.state == FINISHED and math.isfinite(run.figure(LOSS))


def problem_of(run: Run) -> str:
    """Why it has no final validation loss, in words: ``failed (why)``; empty if it has one."""
    if run.state == FAILED:
        return f"failed ({run.error.rstrip('.')})"
    if run.state == UNFINISHED:
        asked = "" if run.steps_asked is None else f" of {run.steps_asked:,}"
        return f"is unfinished (at step {run.steps_done:,}{asked})"
    if run.state == DAMAGED:
        return run.error
    return "" if is_finished(run) else "diverged (its validation loss is no finite number)"


def finished(variant: Variant) -> list[Run]:
    """Runs with a final validation loss, one of each seed: the last if there are several."""
    return list({run.seed: run for run in variant.runs if is_finished(run)}.values())


def compare(variants: Sequence[Variant], reference: str, seeds: Sequence[int]) -> list[Comparison]:
    """Compares each variant with the reference of the same size.

    Args:
        variants: in their order.
        reference: label of the variant that the others are compared with.
        seeds: that the study has: a variant without a run of one of them misses it.
    """
    of_size = {v.size: v for v in variants if v.label == reference}
    found = [_compared(v, of_size.get(v.size), reference, seeds) for v in variants]
    corrected = holm([one.difference.p_value if _is_tested(one) else math.nan for one in found])
    tests = sum(not math.isnan(p) for p in corrected)
    return [_judged(one, p, tests) for one, p in zip(found, corrected, strict=True)]


def _is_tested(one: Comparison) -> bool:
    return one.verdict not in (REFERENCE, NOT_COMPARED, UNKNOWN)


def _compared(
    variant: Variant, reference: Variant | None, label: str, seeds: Sequence[int]
) -> Comparison:
    runs = finished(variant)
    one = Comparison(
        variant=variant,
        verdict=NOT_TOLD,
        loss=mean_of([run.figure(LOSS) for run in runs]),
        bits=mean_of([run.figure(BITS) for run in runs]),
        difference=difference_of([], []),
        bits_difference=difference_of([], []),
        missing=tuple(_missing(variant, seeds)),
    )
    if doubled := _doubled(variant):
        one = replace(one, remarks=(doubled,))
    mixed = _mixed(runs)
    if variant.label == label:
        return replace(one, verdict=REFERENCE, remarks=(*mixed, *one.remarks, *_copies(runs)))
    if mixed:
        return replace(one, verdict=NOT_COMPARED, remarks=(*mixed, *one.remarks))
    if reference is None:
        return replace(
            one,
            verdict=NOT_COMPARED,
            remarks=(
                *one.remarks,
                f"there is no run of {name_at(label, variant.size_setting, variant.size)}",
            ),
        )
    others = {run.seed: run for run in finished(reference)}
    pairs = [(run, others[run.seed]) for run in runs if run.seed in others]
    obstacles = list(dict.fromkeys(filter(None, (obstacle(*pair) for pair in pairs))))
    told: dict[str, str] = {}
    for pair in reversed(pairs):  # each kind once, with the figures of the first seed
        told |= cautions(*pair)
    remarks = [*one.remarks, *told.values()]
    if obstacles:
        return replace(one, verdict=NOT_COMPARED, remarks=(obstacles[0], *remarks))
    copies = _copies(runs) or _copies([other for _, other in pairs])
    one = replace(
        one,
        difference=_difference(pairs, LOSS),
        bits_difference=_difference(pairs, BITS),
        seeds=len(pairs),
        remarks=(*remarks, *copies, *_same_model(pairs)),
    )
    is_known = len(pairs) >= 2 and (not copies or one.difference.mean.value == 0)
    return one if is_known else replace(one, verdict=UNKNOWN)


def _difference(pairs: Sequence[tuple[Run, Run]], name: str) -> Difference:
    return difference_of([r.figure(name) for r, _ in pairs], [o.figure(name) for _, o in pairs])


def _mixed(runs: Sequence[Run]) -> tuple[str, ...]:
    """Seeds whose losses mean something else than those of the first: their mean means nothing."""
    for run in runs[1:]:
        if why := obstacle(run, runs[0]):
            return (f"its seeds do not belong together, {_seed(run)} and {_seed(runs[0])}: {why}",)
    return ()


def _copies(runs: Sequence[Run]) -> tuple[str, ...]:
    """Seeds that change nothing are no seeds."""
    losses = {run.figure(LOSS) for run in runs}
    if len(runs) < 2 or len(losses) > 1:
        return ()
    return (f"its {len(runs)} seeds gave exactly the same loss: copies of one run tell nothing",)


def _doubled(variant: Variant) -> str:
    """Seeds that were run several times, in words; empty if none was."""
    seeds = [_seed(run) for run in variant.runs if is_finished(run)]
    several = [seed for seed in dict.fromkeys(seeds) if seeds.count(seed) > 1]
    return f"several runs of {', '.join(several)}: only the last one counts" if several else ""


def _seed(run: Run) -> str:
    return "unknown seed" if run.seed is None else f"seed {run.seed}"


def _same_model(pairs: Sequence[tuple[Run, Run]]) -> tuple[str, ...]:
    """Equal in all that is known of two variants: one setting may have changed nothing."""
    names = ("parameters", LOSS)
    if not pairs or any(r.figure(name) != o.figure(name) for r, o in pairs for name in names):
        return ()
    return (
        f"both have {pairs[0][0].figure('parameters'):,.0f} parameters and the same loss to all "
        "digits: they may be the same model",
    )


def _judged(one: Comparison, p_value: float, tests: int) -> Comparison:
    if not _is_tested(one):
        return one
    mean = one.difference.mean
    level = LEVEL / max(1, tests)  # as strict as the first step of Holm's correction
    verdict = NOT_TOLD
    if p_value < LEVEL:
        verdict = WORSE if mean.value > 0 else BETTER
    return replace(
        one,
        verdict=verdict,
        p_value=p_value,
        needed=seeds_needed(mean.value, mean.deviation, level),
        detectable=detectable(mean.deviation, one.seeds, level),
    )


def _missing(variant: Variant, seeds: Sequence[int]) -> list[str]:
    found = []
    for run in variant.runs:
        seed = f"a run of {_seed(run)}" if run.seed is None else _seed(run)
        if problem := problem_of(run):
            found.append(problem if run.state == DAMAGED else f"{seed} {problem}")
    there = {run.seed for run in variant.runs}
    found += [f"seed {seed} has not begun" for seed in seeds if seed not in there]
    return found
