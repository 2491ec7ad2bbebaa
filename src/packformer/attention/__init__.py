"""Packed attention: one function, several kernels.

Shape legend, used as name suffixes throughout:

    B  batch, always 1: a batch is one packed row
    M  tokens of the row
    H  query heads
    G  key/value heads, a divisor of H
    R  query heads per key/value head, H / G
    K  head size
    D  model width
    V  vocabulary
    S  document slots of the row
    L  tokens of one document
    N  blocks of 128 tokens
"""

from packformer.attention.checks import check_added, debugging, requested_score_mod
from packformer.attention.choice import (
    requested_kernel,
    select_kernel,
    select_proved_kernel,
    sole_kernel,
)
from packformer.attention.kernel import FEATURES, PUBLISHED, Kernel, Scoring, Variant
from packformer.attention.kernels import KERNELS
from packformer.attention.kernels.awaited import NotProved, wait_before_first_call
from packformer.attention.layout import PackedLayout
from packformer.attention.packed import packed_attention
from packformer.attention.proof import Verdict, Verdicts
from packformer.nn.position import ScoreMod, Slopes

__all__ = [
    "FEATURES",
    "KERNELS",
    "PUBLISHED",
    "Kernel",
    "NotProved",
    "PackedLayout",
    "ScoreMod",
    "Scoring",
    "Slopes",
    "Variant",
    "Verdict",
    "Verdicts",
    "check_added",
    "debugging",
    "packed_attention",
    "requested_kernel",
    "requested_score_mod",
    "select_kernel",
    "select_proved_kernel",
    "sole_kernel",
    "wait_before_first_call",
]
