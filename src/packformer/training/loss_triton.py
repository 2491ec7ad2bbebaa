"""A Triton kernel that turns logits into the gradient of their cross-entropy, in place."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from packformer.batch import IGNORE_INDEX

_BLOCK = 8192  # logits that a program holds at a time; with 8 warps the fastest on an H200
_WARPS = 8
_LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def _cross_entropy_of_row(  # type: ignore[no-untyped-def]
    logits, targets, nats, row_stride, vocab_size, IGNORED: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    logits += row * row_stride
    target = tl.load(targets + row)
    counted = target != IGNORED
    # Read before the first reduction: its barrier parts this from the writes of the second loop.
    known = (target >= 0) & (target < vocab_size)  # else its nats are infinite
    right = tl.load(logits + target, mask=known, other=float("-inf")).to(tl.float32) * _LOG2_E
    offsets = tl.arange(0, BLOCK)
    highest = tl.full((), float("-inf"), tl.float32)
    total = tl.full((), 0.0, tl.float32)
    for begin in range(0, vocab_size, BLOCK):
        inside = begin + offsets < vocab_size
        x = tl.load(logits + begin + offsets, mask=inside, other=float("-inf"))
        x = x.to(tl.float32) * _LOG2_E
        higher = tl.maximum(highest, tl.max(x, 0))
        total = total * tl.exp2(highest - higher) + tl.sum(tl.exp2(x - higher), 0)
        highest = higher
    log2_sum = highest + tl.log2(total)
    tl.store(nats + row, tl.where(counted, (log2_sum - right) / _LOG2_E, 0.0))
    for begin in range(0, vocab_size, BLOCK):
        inside = begin + offsets < vocab_size
        x = tl.load(logits + begin + offsets, mask=inside, other=0.0)
        p = tl.exp2(x.to(tl.float32) * _LOG2_E - log2_sum)
        gradient = tl.where(counted, tl.where(begin + offsets == target, p - 1, p), 0.0)
        tl.store(logits + begin + offsets, gradient.to(x.dtype), mask=inside)


def nats_of_each(logits_MV: Tensor, targets_M: Tensor) -> Tensor:
    """Cross-entropy of each row, float32 ``[M]``; ``logits_MV`` becomes the gradient of their sum.

    Reads the logits twice and writes them once; the second time most come from the L2 cache.

    Args:
        logits_MV: bfloat16, float16 or float32 ``[M, V]``, last dimension dense; overwritten.
        targets_M: int64 ``[M]``, ``IGNORE_INDEX`` where nothing is predicted. The nats of any
            other id outside the vocabulary are infinite.
    """
    nats_M = logits_MV.new_empty(len(logits_MV), dtype=torch.float32)
    _cross_entropy_of_row[(len(logits_MV),)](
        logits_MV,
        targets_M,
        nats_M,
        logits_MV.stride(0),
        logits_MV.shape[1],
        IGNORED=IGNORE_INDEX,
        BLOCK=min(_BLOCK, triton.next_power_of_2(logits_MV.shape[1])),
        num_warps=_WARPS,
    )
    return nats_M
