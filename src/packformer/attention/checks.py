"""What arguments of packed attention must satisfy.

The usual checks look at shapes and types alone, so that nothing waits for the device. Checks of
values copy from it: they run with ``PACKFORMER_DEBUG=1`` in the environment.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from packformer.attention.kernel import PUBLISHED, Scoring
from packformer.attention.layout import PackedLayout

DEBUG_VARIABLE = "PACKFORMER_DEBUG"


def check_call(q: Tensor, k: Tensor, v: Tensor, layout: PackedLayout, scoring: Scoring) -> None:
    """Checks shapes and types; in debug mode also values.

    Raises:
        ValueError: naming the value, the rule and the remedy.
    """
    if q.ndim != 4 or k.ndim != 4 or q.shape[0] != 1 or k.shape[0] != 1 or k.shape != v.shape:
        raise ValueError(
            f"q {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)} must be [1, M, H, K], "
            f"[1, M, G, K] and [1, M, G, K]"
        )
    if q.shape[1] != layout.num_tokens or k.shape[1] != layout.num_tokens:
        raise ValueError(
            f"q has {q.shape[1]} tokens and k {k.shape[1]}, the layout {layout.num_tokens}: "
            "make the layout from the lengths of this row"
        )
    if q.shape[3] != k.shape[3] or k.shape[2] < 1 or q.shape[2] % k.shape[2]:
        raise ValueError(
            f"num_heads ({q.shape[2]}) must be divisible by num_kv_heads ({k.shape[2]}), "
            f"and their head sizes ({q.shape[3]}, {k.shape[3]}) equal"
        )
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k, v must share a dtype, not {q.dtype}, {k.dtype}, {v.dtype}")
    _check_layout(layout, q.device)
    _check_scoring(scoring, q)
    if not torch.compiler.is_compiling() and os.environ.get(DEBUG_VARIABLE):
        _check_values(layout, scoring)


def _check_layout(layout: PackedLayout, device: torch.device) -> None:
    if layout.cu_seqlens.dtype != torch.int32:
        raise ValueError(
            f"cu_seqlens ({layout.cu_seqlens.dtype}) must be int32: use .to(torch.int32)"
        )
    for name, value in (("cu_seqlens", layout.cu_seqlens), ("position_ids", layout.position_ids)):
        if value.ndim != 1:
            raise ValueError(f"{name} {list(value.shape)} must have one dimension")
        if value.device != device:
            raise ValueError(
                f"{name} is on {value.device}, q on {device}: move it with layout.to(device)"
            )


def _check_scoring(scoring: Scoring, q: Tensor) -> None:
    num_tokens, num_heads = q.shape[1:3]
    window, cap, slopes, bias = (
        scoring.window,
        scoring.soft_cap,
        scoring.alibi_slopes,
        scoring.bias,
    )
    if window is not None and (not isinstance(window, int) or window < 1):
        raise ValueError(f"window ({window}) must be a whole number from 1 up")
    if cap is not None and not cap > 0:
        raise ValueError(f"soft_cap ({cap}) must be positive, or None for no cap")
    if isinstance(slopes, str):
        if slopes != PUBLISHED:
            raise ValueError(f"alibi_slopes ({slopes!r}) must be {PUBLISHED!r}, or one per head")
    elif slopes is not None:
        if slopes.shape != (num_heads,):
            raise ValueError(
                f"alibi_slopes {list(slopes.shape)} must be [{num_heads}], one per query head"
            )
        if slopes.device != q.device:
            raise ValueError(f"alibi_slopes is on {slopes.device}, q on {q.device}: move it there")
    if bias is not None:
        wanted = [[n, num_tokens, num_tokens] for n in (num_heads, 1)]
        if list(bias.shape) not in wanted:
            raise ValueError(
                f"bias {list(bias.shape)} must be [H or 1, M, M], here {wanted[0]} or {wanted[1]}"
            )
        if bias.device != q.device:
            raise ValueError(f"bias is on {bias.device}, q on {q.device}: move it there")


def _check_values(layout: PackedLayout, scoring: Scoring) -> None:
    bounds = layout.cu_seqlens.tolist()
    lengths = [end - start for start, end in zip(bounds, bounds[1:], strict=False)]
    if bounds[0] != 0 or bounds[-1] != layout.num_tokens:
        raise ValueError(
            f"cu_seqlens must go from 0 to the row's {layout.num_tokens} tokens, "
            f"not from {bounds[0]} to {bounds[-1]}"
        )
    if min(lengths) < 0:
        at = next(i for i, length in enumerate(lengths) if length < 0)
        raise ValueError(f"cu_seqlens must ascend, but {bounds[at + 1]} follows {bounds[at]}")
    if max(lengths) > layout.max_seqlen:
        raise ValueError(
            f"max_seqlen ({layout.max_seqlen}) must be at least the longest document "
            f"({max(lengths)} tokens)"
        )
    starts = torch.tensor(bounds[:-1]).repeat_interleave(torch.tensor(lengths))
    if not torch.equal(layout.position_ids.cpu(), torch.arange(layout.num_tokens) - starts):
        raise ValueError("position_ids must restart at 0 with each document of cu_seqlens")
    for name, value in (("alibi_slopes", scoring.alibi_slopes), ("bias", scoring.bias)):
        if isinstance(value, Tensor) and not value.isfinite().all():
            raise ValueError(
                f"{name} must be finite: hide keys by documents or the window, not by infinities"
            )
