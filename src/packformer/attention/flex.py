"""Packed attention through torch's FlexAttention on CUDA: ALiBi in linear memory, any dtype.

The block mask is computed from the document starts directly, one comparison per pair of
128-token blocks; no mask over pairs of tokens is ever made.

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
    itself. ``first`` never decreases, so a block of keys is needed if it reaches the ``first`` of
    the block's first query, and needs no further check if it begins at or after the ``first`` of
    the block's last query and ends before the first query.

    Args:
        layout: documents of the row, M tokens.
        window: number of visible tokens, the query's own included; None for all.
    """
    device = layout.position_ids.device
    num_tokens = layout.num_tokens
    reach = layout.position_ids if window is None else layout.position_ids.clamp(max=window - 1)
    first_M = torch.arange(num_tokens, device=device) - reach
    num_blocks = -(-num_tokens // _BLOCK)
    begin_N = torch.arange(num_blocks, device=device) * _BLOCK
    end_N = (begin_N + _BLOCK).clamp(max=num_tokens)
    not_later = begin_N[None, :] <= begin_N[:, None]
    needed = not_later & (end_N[None, :] > first_M[begin_N][:, None])
    full = (end_N[None, :] <= begin_N[:, None]) & (begin_N[None, :] >= first_M[end_N - 1][:, None])

    def sees(batch: Tensor, head: Tensor, q_index: Tensor, kv_index: Tensor) -> Tensor:
        return (kv_index <= q_index) & (q_index - kv_index <= reach[q_index])

    return BlockMask.from_kv_blocks(
        *_ordered(needed & ~full),
        *_ordered(full),
        BLOCK_SIZE=_BLOCK,
        mask_mod=sees,
        seq_lengths=(num_tokens, num_tokens),
    )


def _ordered(blocks_NN: Tensor) -> tuple[Tensor, Tensor]:
    """Counts ``[1, 1, N]`` and indices ``[1, 1, N, N]``, chosen blocks first, for BlockMask."""
    counts = blocks_NN.sum(-1, dtype=torch.int32)
    indices = blocks_NN.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return counts[None, None], indices.to(torch.int32)[None, None]


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
