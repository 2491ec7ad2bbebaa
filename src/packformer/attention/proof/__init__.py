"""Checks on this machine that a kernel computes what it should, and measures how fast."""

from packformer.attention.proof.case import Case
from packformer.attention.proof.comparison import Comparison, compare
from packformer.attention.proof.timing import median_milliseconds, warm_up
from packformer.attention.proof.verdict import (
    MOST_ROUNDINGS,
    STATUSES,
    TOLERANCE,
    Verdict,
    clock,
    judge,
    prove,
)
from packformer.attention.proof.verdicts import Verdicts, known_wrong, machine

__all__ = [
    "MOST_ROUNDINGS",
    "STATUSES",
    "TOLERANCE",
    "Case",
    "Comparison",
    "Verdict",
    "Verdicts",
    "clock",
    "compare",
    "judge",
    "known_wrong",
    "machine",
    "median_milliseconds",
    "prove",
    "warm_up",
]
