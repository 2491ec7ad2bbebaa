"""A Triton kernel that turns logits into the gradient of their loss, in place."""

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
def _loss_of_row(  # type: ignore[no-untyped-def]
    logits,
    targets,
    nats,
    log_sums,
    row_stride,
    vocab_size,
    z_loss,
    IGNORED: tl.constexpr,
    BLOCK: tl.constexpr,
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
    log_sum = log2_sum / _LOG2_E
    tl.store(nats + row, tl.where(counted, (log2_sum - right) / _LOG2_E, 0.0))
    tl.store(log_sums + row, tl.where(counted, log_sum, 0.0))
    grown = 1.0 + 2.0 * z_loss * log_sum
    for begin in range(0, vocab_size, BLOCK):
        inside = begin + offsets < vocab_size
        x = tl.load(logits + begin + offsets, mask=inside, other=0.0)
        p = grown * tl.exp2(x.to(tl.float32) * _LOG2_E - log2_sum)
        gradient = tl.where(counted, tl.where(begin + offsets == target, p - 1, p), 0.0)
        tl.store(logits + begin + offsets, gradient.to(x.dtype), mask=inside)


def nats_of_each(logits_MV: Tensor, targets_M: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
    r"""Cross-entropy and :math:`\log Z` of each row; ``logits_MV`` becomes their loss's gradient.

    That is :math:`p_v (1 + 2 c \log Z) - [v = t]` for logit v, target t and softmax p. Reads the
    logits twice and writes them once; the second time most come from the L2 cache.

    Args:
        logits_MV: bfloat16, float16 or float32 ``[M, V]``, last dimension dense; overwritten.
        targets_M: int64 ``[M]``, ``IGNORE_INDEX`` where nothing is predicted. The nats of any
            other id outside the vocabulary are infinite.
        z_loss: c, see ``next_token_loss``.

    Returns:
        Two float32 ``[M]``, 0 where nothing is predicted.
    """
    nats_M = logits_MV.new_empty(len(logits_MV), dtype=torch.float32)
    log_sums_M = torch.empty_like(nats_M)
    _loss_of_row[(len(logits_MV),)](
        logits_MV,
        targets_M,
        nats_M,
        log_sums_M,
        logits_MV.stride(0),
        logits_MV.shape[1],
        z_loss,
        IGNORED=IGNORE_INDEX,
        BLOCK=min(_BLOCK, triton.next_power_of_2(logits_MV.shape[1])),
        num_warps=_WARPS,
    )
    return nats_M, log_sums_M
