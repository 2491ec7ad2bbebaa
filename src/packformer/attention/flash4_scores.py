"""Score functions that are compiled into FlashAttention-4's kernels; imported only with it."""

# The names of the arguments are part of FlashAttention-4's interface.
# ruff: noqa: ARG001

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import cutlass
from cutlass import cute


class ScoreFunctions(NamedTuple):
    """What one call of FlashAttention-4 needs; all None for plain scores."""

    forward: Callable[..., Any] | None
    recomputed: Callable[..., Any] | None
    gradient: Callable[..., Any] | None


@cache
def score_functions(alibi: bool, soft_cap: float, repacked: int) -> ScoreFunctions:
    """Functions of the forward, of the backward's recomputation, and of its gradient.

    The linear bias uses the absolute distance: the backward evaluates hidden keys too, and a
    positive bias overflows there.

    Args:
        alibi: subtract the slopes, the first auxiliary tensor, times the distance.
        soft_cap: 0 for none.
        repacked: R if the backward hands query ``i`` of head ``h`` over as query ``i // R`` of head
            ``h * R + i % R``, else 1. The kernel for Hopper does, as if grouped heads were packed
            there as they are in its forward: with R > 1 that is undone here.
    """
    if not alibi and not soft_cap:
        return ScoreFunctions(None, None, None)

    @cute.jit
    def forward(score, b_idx, h_idx, q_idx, kv_idx, seqlen_info, aux_tensors):  # type: ignore[no-untyped-def]
        if cutlass.const_expr(soft_cap > 0):
            score = soft_cap * cute.math.tanh(score / soft_cap, fastmath=True)
        if cutlass.const_expr(alibi):
            head = cute.make_rmem_tensor(1, cutlass.Int32)
            head.store(h_idx)
            slope = cute.make_rmem_tensor(1, cutlass.Float32)
            slope[0] = aux_tensors[0][head[0]]
            distance = cute.math.absf((q_idx - kv_idx).to(cutlass.Float32))
            score = score - slope.load() * distance
        return score

    @cute.jit
    def recomputed(score, b_idx, h_idx, q_idx, kv_idx, seqlen_info, aux_tensors):  # type: ignore[no-untyped-def]
        if cutlass.const_expr(soft_cap > 0):
            score = soft_cap * cute.math.tanh(score / soft_cap, fastmath=True)
        if cutlass.const_expr(alibi):
            head = cute.make_rmem_tensor(1, cutlass.Int32)
            if cutlass.const_expr(repacked > 1):
                true_head = h_idx // repacked
                q_idx = q_idx * repacked + (h_idx - true_head * repacked)
                head.store(true_head)
            else:
                head.store(h_idx)
            slope = cute.make_rmem_tensor(1, cutlass.Float32)
            slope[0] = aux_tensors[0][head[0]]
            distance = cute.math.absf((q_idx - kv_idx).to(cutlass.Float32))
            score = score - slope.load() * distance
        return score

    @cute.jit
    def gradient(grad, score, b_idx, h_idx, q_idx, kv_idx, seqlen_info, aux_tensors):  # type: ignore[no-untyped-def]
        if cutlass.const_expr(soft_cap > 0):
            tanh = cute.math.tanh(score / soft_cap, fastmath=True)
            grad = grad * (1.0 - tanh * tanh)
        return grad

    return ScoreFunctions(forward, recomputed, gradient)
