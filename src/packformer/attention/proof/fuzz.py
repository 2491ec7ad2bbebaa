"""Runs drawn cases through a kernel, and reports what it did with each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from packformer.attention.kernel import Kernel
from packformer.attention.proof.case import Case
from packformer.attention.proof.comparison import compare
from packformer.attention.proof.draws import Shrunk, shrink
from packformer.attention.proof.verdict import first_line, over_rounding


@dataclass(frozen=True)
class Outcome:
    """What a kernel did with one case.

    Attributes:
        kernel: its name.
        case: which.
        reason: how it failed; None if it did not.
        roundings: as in ``Comparison``; empty if it did not run to its end.
    """

    kernel: str
    case: Case
    reason: str | None
    roundings: Mapping[str, float]


def run_case(kernel: Kernel, case: Case, device_type: str) -> Outcome:
    """Runs one case beside the float64 reference.

    Raises:
        ValueError: if the kernel does not claim to support it.
    """
    if unsupported := kernel.unsupported(case.variant(device_type)):
        raise ValueError(f"kernel {kernel.name} cannot run this case: it {unsupported}")
    try:
        comparison = compare(kernel, case, device_type)
    except Exception as error:  # a kernel may fail in any way
        return Outcome(kernel.name, case, f"fails: {first_line(error)}", {})
    return Outcome(kernel.name, case, over_rounding(comparison.roundings), comparison.roundings)


def smallest_failure(outcome: Outcome, kernel: Kernel, device_type: str) -> Shrunk:
    """The smallest case that fails where ``outcome`` did."""

    def fails(case: Case) -> str | None:
        if kernel.unsupported(case.variant(device_type)):
            return None
        return run_case(kernel, case, device_type).reason

    assert outcome.reason is not None
    return shrink(outcome.case, outcome.reason, fails)
