"""Score functions that are compiled into FlashAttention-4's kernels; imported only with it."""

# The names of the arguments are part of FlashAttention-4's interface.
# ruff: noqa: ARG001

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import cutlass
from cutlass import cute

from packformer.cache import fingerprint

_LOG2_E = math.log2(math.e)
_SOURCE = Path(__file__).read_bytes()


class ScoreFunctions(NamedTuple):
    """What one call of FlashAttention-4 needs; all None for plain scores."""

    forward: Callable[..., Any] | None
    recomputed: Callable[..., Any] | None
    gradient: Callable[..., Any] | None


@cache
def score_functions(
    slopes: str | None, num_heads: int, soft_cap: float, repacked: int
) -> ScoreFunctions:
    """Functions of the forward, of the backward's recomputation, and of its gradient.

    The linear bias uses the absolute distance: the backward evaluates hidden keys too, and a
    positive bias overflows there.

    Args:
        slopes: ``"published"``, computed from the number of the head (an auxiliary tensor costs two
            integer divisions per score); ``"given"``, the first auxiliary tensor; None for none.
        num_heads: H, of which the published slopes depend.
        soft_cap: 0 for none.
        repacked: R if the backward hands query ``i`` of head ``h`` over as query ``i // R`` of head
            ``h * R + i % R``, else 1. The kernel for Hopper does, as if grouped heads were packed
            there as they are in its forward: with R > 1 that is undone here.
    """
    if slopes is None and not soft_cap:
        return ScoreFunctions(None, None, None)
    slope_of = _published_slope(num_heads) if slopes == "published" else _given_slope

    @cute.jit
    def scored(score, head, q_idx, kv_idx, aux_tensors):  # type: ignore[no-untyped-def]
        if cutlass.const_expr(soft_cap > 0):
            score = soft_cap * cute.math.tanh(score / soft_cap, fastmath=True)
        if cutlass.const_expr(slopes is not None):
            distance = cute.math.absf((q_idx - kv_idx).to(cutlass.Float32))
            score = score - slope_of(head, aux_tensors) * distance
        return score

    @cute.jit
    def forward(score, b_idx, h_idx, q_idx, kv_idx, seqlen_info, aux_tensors):  # type: ignore[no-untyped-def]
        return scored(score, h_idx, q_idx, kv_idx, aux_tensors)

    @cute.jit
    def recomputed(score, b_idx, h_idx, q_idx, kv_idx, seqlen_info, aux_tensors):  # type: ignore[no-untyped-def]
        if cutlass.const_expr(repacked > 1):
            # All scores of a call are of one head.
            head = cute.full_like(h_idx, h_idx[0] // repacked)
            q_idx = q_idx * repacked + h_idx - head * repacked
            h_idx = head
        return scored(score, h_idx, q_idx, kv_idx, aux_tensors)

    @cute.jit
    def gradient(grad, score, b_idx, h_idx, q_idx, kv_idx, seqlen_info, aux_tensors):  # type: ignore[no-untyped-def]
        if cutlass.const_expr(soft_cap > 0):
            # 1 - tanh^2 without its cancellation: the fast tanh is good to 2^-11 only.
            rest = 2.0 / (cute.math.exp2(score * (2 * _LOG2_E / soft_cap), fastmath=True) + 1.0)
            grad = grad * (rest * (2.0 - rest))
        return grad

    functions = ScoreFunctions(forward, recomputed, gradient)
    for name, function in functions._asdict().items():
        # What compiled kernels are kept under, in memory and on disk: else the addresses of the
        # functions that these call would be part of it, which another process gives to others.
        settings = repr((name, slopes, num_heads, soft_cap, repacked))
        function.__cute_hash__ = fingerprint([_SOURCE, settings])
    return functions


@cute.jit
def _given_slope(head, aux_tensors):  # type: ignore[no-untyped-def]
    index = cute.make_rmem_tensor(head.shape, cutlass.Int32)
    index.store(head)
    slope = cute.make_rmem_tensor(head.shape, cutlass.Float32)
    for i in cutlass.range_constexpr(cute.size(head.shape)):
        slope[i] = aux_tensors[0][index[i]]
    return slope.load()


def _published_slope(num_heads: int) -> Callable[..., Any]:
    # As ``published_slopes`` in nn/position.py.
    below = 2 ** math.floor(math.log2(num_heads))

    @cute.jit
    def slope(head, aux_tensors):  # type: ignore[no-untyped-def]
        number = head.to(cutlass.Float32)
        exponent = (number + 1.0) * (-8.0 / below)
        if cutlass.const_expr(num_heads != below):
            interleaved = (number - (below - 0.5)) * (-8.0 / below)
            exponent = cute.where(number < float(below), exponent, interleaved)
        return cute.math.exp2(exponent, fastmath=True)

    return slope
