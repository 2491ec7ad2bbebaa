"""Proof that a kernel computes a variant on this very machine, and how fast."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from packformer.attention.kernel import Kernel, Variant
from packformer.attention.proof import timing
from packformer.attention.proof.case import Case
from packformer.attention.proof.comparison import compare, results
from packformer.attention.proof.rows import mixed_row, odd_rows, usual_rows

TOLERANCE = {
    torch.bfloat16: 5e-3,
    torch.float16: 5e-3,
    torch.float32: 1e-5,
    torch.float64: 1e-12,
}
"""Largest relative Frobenius error against float64 that passes, on the usual rows."""

MOST_ROUNDINGS = 4.0
"""Largest error of a token, in units of what rounding costs a right kernel there."""

STATUSES = ("ok", "slower", "wrong", "failed", "no memory")


@dataclass(frozen=True)
class Verdict:
    """What was seen of one kernel and variant.

    Attributes:
        status: ``"ok"``, ``"slower"`` if it was only timed, because a faster kernel is right,
            ``"wrong"``, ``"failed"`` if it could not be run to the end, or ``"no memory"`` if the
            device's memory did not suffice to find out.
        reason: what is wrong; empty if nothing.
        errors: relative Frobenius error against float64, largest over the usual rows, of ``out``,
            ``dq``, ``dk``, ``dv`` and, where they have one, of ``slopes`` and ``bias``.
        roundings: of the same results, the error of the worst token of all rows, in units of what
            rounding costs a right kernel there (see ``proof/rounding.py``).
        isolated: replacing every token of a document left all other documents' outputs and
            gradients bit for bit as they were, under deterministic algorithms.
        milliseconds: forward and backward of a row, median; None where there is something against
            the kernel.
    """

    status: str
    reason: str
    errors: dict[str, float]
    roundings: dict[str, float]
    isolated: bool
    milliseconds: float | None

    @property
    def is_against(self) -> bool:
        """Whether the kernel must not be taken, whatever the others are like."""
        return self.status not in ("ok", "slower")


def judge(kernel: Kernel, variant: Variant, milliseconds: float | None = None) -> Verdict:
    """Runs ``kernel`` on ``variant``, which it claims to support, compares, and times it.

    Args:
        kernel: to judge.
        variant: on what.
        milliseconds: that it takes, if that was measured before.
    """
    verdict = prove(kernel, variant)
    if verdict.status == "ok" and milliseconds is not None:
        return replace(verdict, milliseconds=milliseconds)
    return clock(kernel, variant, verdict)


def only_timed(kernel: Kernel, variant: Variant) -> Verdict:
    """A verdict without a proof: ``"slower"``, with the time, if ``kernel`` runs at all."""
    return clock(kernel, variant, Verdict("slower", "", {}, {}, False, None))


def clock(kernel: Kernel, variant: Variant, verdict: Verdict) -> Verdict:
    """``verdict`` with the time, if there is nothing against it."""
    if verdict.is_against:
        return verdict
    torch.compiler.reset()
    try:
        return replace(verdict, milliseconds=timing.milliseconds(kernel, variant))
    except Exception as error:
        return _failed(error, verdict.errors, verdict.roundings)


def prove(kernel: Kernel, variant: Variant) -> Verdict:
    """A verdict without the time."""
    torch.compiler.reset()  # else torch stops compiling after a few variants
    errors: dict[str, float] = {}
    roundings: dict[str, float] = {}
    try:
        for case in usual_rows(variant):
            comparison = compare(kernel, case, variant.device_type)
            _keep_worst(errors, comparison.relative)
            _keep_worst(roundings, comparison.roundings)
        if reason := _over_tolerance(errors, variant.dtype) or over_rounding(roundings):
            return Verdict("wrong", reason, errors, roundings, False, None)
        for case in odd_rows(variant):
            comparison = compare(kernel, case, variant.device_type)
            _keep_worst(roundings, comparison.roundings)
            if reason := over_rounding(comparison.roundings):
                reason = f"{reason} on {shown_row(case)}"
                return Verdict("wrong", reason, errors, roundings, False, None)
        torch.compiler.reset()  # determinism is another program
        if not _is_isolated(kernel, variant):
            reason = "lets documents see each other"
            return Verdict("wrong", reason, errors, roundings, False, None)
        return Verdict("ok", "", errors, roundings, True, None)
    except Exception as error:  # a kernel may fail in any way: it must not take a run with it
        return _failed(error, errors, roundings)


def _keep_worst(worst: dict[str, float], found: dict[str, float]) -> None:
    for name, value in found.items():
        former = worst.get(name, 0.0)
        worst[name] = former if math.isnan(former) or value <= former else value


def _over_tolerance(errors: dict[str, float], dtype: torch.dtype) -> str | None:
    single = TOLERANCE[torch.float32]  # slopes and biases are kept in float32
    limits = {name: max(TOLERANCE[dtype], single) for name in ("slopes", "bias")}
    over = {name: e for name, e in errors.items() if not e <= limits.get(name, TOLERANCE[dtype])}
    shown = ", ".join(f"{name} {error:.1e}" for name, error in over.items())
    return f"errs by {shown}" if over else None


def over_rounding(roundings: Mapping[str, float]) -> str | None:
    """The results whose error is larger than rounding explains; None if there are none."""
    over = {name: times for name, times in roundings.items() if not times <= MOST_ROUNDINGS}
    shown = ", ".join(f"{name} {times:.3g}" for name, times in over.items())
    return f"errs by more than its rounding, {shown} times" if over else None


def shown_row(case: Case) -> str:
    """The documents of ``case``, for messages."""
    lengths = list(case.lengths)
    return f"documents {lengths}" if len(lengths) <= 8 else f"{len(lengths)} documents"


def _failed(error: Exception, errors: dict[str, float], roundings: dict[str, float]) -> Verdict:
    status = "no memory" if isinstance(error, torch.OutOfMemoryError) else "failed"
    return Verdict(status, f"fails: {first_line(error)}", errors, roundings, False, None)


def first_line(error: Exception) -> str:
    """Type and first line of the message."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


@contextmanager
def deterministic(*, strict: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=not strict)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)


def _is_isolated(kernel: Kernel, variant: Variant) -> bool:
    # FlashAttention 2 is deterministic only where that is demanded strictly; other operations then
    # refuse to run although they are.
    try:
        return _leaves_others_alone(kernel, variant, strict=True)
    except RuntimeError:
        return _leaves_others_alone(kernel, variant, strict=False)


def _leaves_others_alone(kernel: Kernel, variant: Variant, *, strict: bool) -> bool:
    case = mixed_row(variant)
    inputs = case.inputs(variant.device_type)
    begin = sum(case.lengths[:4])
    document = slice(begin, begin + case.lengths[4])
    changed = inputs.changed(lambda x: _replaced(x, document))
    with deterministic(strict=strict):
        before = results(kernel.run, inputs)
        after = results(kernel.run, changed)
    return all(
        torch.equal(before[name][:, part], after[name][:, part])
        for name in ("out", "dq", "dk", "dv")
        for part in (slice(0, document.start), slice(document.stop, None))
    )


def _replaced(x: Tensor, document: slice) -> Tensor:
    changed = x.clone()
    changed[:, document].mul_(-3).sub_(1)
    return changed
