"""Packed attention through torch's FlexAttention on CUDA: ALiBi in linear memory, any dtype.

The block mask is computed from the document starts directly; no mask over pairs of tokens, or of
blocks, is ever made.

Source: Dong et al., "Flex Attention: A Programming Model for Generating Optimized Attention
Kernels" (2024).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from packformer.attention.kernel import Kernel, Variant
from packformer.attention.layout import PackedLayout

_BLOCK = 128


@cache
def _compiled_flex_attention() -> Callable[..., Any]:
    return torch.compile(flex_attention, dynamic=False)


def block_mask(layout: PackedLayout, window: int | None = None) -> BlockMask:
    """FlexAttention's mask for documents, causality and an optional sliding window.

    Query ``i`` sees the keys from ``first(i) = max(start of its document, i - window + 1)`` to
    itself, and ``first`` never decreases. So the N blocks of queries each need one range of key
    blocks: from the one that holds the first query's ``first`` to their own. Those that begin at or
    after the last query's ``first`` and end before the first query are seen whole. Read from the
    key blocks' side, both are ranges too. A range spans at most W blocks, from the longest
    document or the window: the tables take memory in N * W.

    Args:
        layout: documents of the row, M tokens.
        window: number of visible tokens, the query's own included; None for all.
    """
    device = layout.position_ids.device
    num_tokens = layout.num_tokens
    num_blocks = -(-num_tokens // _BLOCK)
    longest_reach = min(layout.max_seqlen, num_tokens, window or num_tokens) - 1
    width = min(-(-longest_reach // _BLOCK) + 1, num_blocks)
    if device.type == "cpu":
        width = num_blocks  # torch's kernel for CPU insists
    reach_M = layout.position_ids.clamp(max=longest_reach)
    first_M = torch.arange(num_tokens, device=device) - reach_M
    block_N = torch.arange(num_blocks, device=device)
    begin_N = block_N * _BLOCK
    end_N = (begin_N + _BLOCK).clamp(max=num_tokens)
    needed_N = first_M[begin_N] // _BLOCK
    full_N = (-(-first_M[end_N - 1] // _BLOCK)).minimum(block_N)
    # The last block of queries that needs, or sees whole, each block of keys.
    needed_by_N = torch.searchsorted(needed_N, block_N, right=True) - 1
    full_for_N = torch.searchsorted(full_N, block_N, right=True) - 1
    offset_W = torch.arange(width, device=device)

    def table(counts_N: Tensor, blocks_NW: Tensor) -> tuple[Tensor, Tensor]:
        used = offset_W < counts_N[:, None]
        blocks_NW = torch.where(used, blocks_NW, block_N[:, None])  # the rest is never read
        return counts_N.to(torch.int32)[None, None], blocks_NW.to(torch.int32)[None, None]

    # Partial blocks: the diagonal one, then those on the far side of the full ones.
    kv = table(full_N - needed_N + 1, needed_N[:, None] + offset_W - 1)
    full_kv = table(block_N - full_N, full_N[:, None] + offset_W)
    q = table(needed_by_N - full_for_N + 1, full_for_N[:, None] + offset_W)
    full_q = table(full_for_N - block_N, block_N[:, None] + 1 + offset_W)
    for indices in (kv[1], q[1]):
        indices[..., 0] = block_N

    def sees(batch: Tensor, head: Tensor, q_index: Tensor, kv_index: Tensor) -> Tensor:
        return (kv_index <= q_index) & (q_index - kv_index <= reach_M[q_index])

    return BlockMask(
        (num_tokens, num_tokens),
        *kv,
        *full_kv,
        *q,
        *full_q,
        BLOCK_SIZE=(_BLOCK, _BLOCK),
        mask_mod=sees,
    )


def _unsupported(variant: Variant) -> str | None:
    if variant.device_type != "cuda":
        return "trains on CUDA only"
    if variant.head_dim < 16:
        return "takes head sizes from 16 up"
    if variant.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        name = str(variant.dtype).removeprefix("torch.")
        return f"takes bfloat16, float16 and float32, not {name}"
    return None


def _run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: PackedLayout,
    *,
    alibi_slopes: Tensor | None,
    window: int | None,
    scale: float,
    prepared: Any = None,
) -> Tensor:
    def biased(
        score: Tensor, batch: Tensor, head: Tensor, q_index: Tensor, kv_index: Tensor
    ) -> Tensor:
        assert alibi_slopes is not None
        return score - alibi_slopes[head] * (q_index - kv_index)

    compiling = torch.compiler.is_compiling()
    attend: Any = flex_attention if compiling else _compiled_flex_attention()
    out_BHMK = attend(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        score_mod=None if alibi_slopes is None else biased,
        block_mask=block_mask(layout, window) if prepared is None else prepared,
        scale=scale,
        enable_gqa=q.shape[2] != k.shape[2],
        # Its decoding kernel, the default for rows below 128 tokens, lacks some numbers of heads.
        kernel_options={"FORCE_USE_FLEX_ATTENTION": True},
    )
    assert isinstance(out_BHMK, Tensor)
    return out_BHMK.transpose(1, 2)


flex_kernel = Kernel(
    name="flex",
    description="torch FlexAttention, linear memory with ALiBi",
    unsupported=_unsupported,
    run=_run,
    prepare=block_mask,
)
