"""What one would write without packformer, measured for comparison."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from packformer.attention import PackedLayout
from packformer.attention.kernels.reference import visible
from packformer.attention.load_xformers import load_fmha

_MOST_DENSE_TOKENS = 16_384  # 12 heads of dense bias: 6 GiB in bfloat16
_MOST_PADDED = 2**31  # scores of the padded batch that are worth waiting for

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def _expanded(x_BMGK: Tensor, num_heads: int) -> Tensor:
    if x_BMGK.shape[2] == num_heads:
        return x_BMGK
    return x_BMGK.repeat_interleave(num_heads // x_BMGK.shape[2], dim=2)


def xformers_as_called(layout: PackedLayout, slopes: Tensor | None, window: int | None) -> Attend:
    """``memory_efficient_attention`` with a mask object, keys and values expanded.

    Linear biases go in as a dense tensor ``[1, H, M, M]``.

    Raises:
        ValueError: if xFormers is absent, runs no such mask, or the dense tensor is too large.
    """
    fmha = load_fmha()
    if slopes is None:
        mask = layout.block_diagonal_causal_mask()
        bias: Any = mask if window is None else mask.make_local_attention(window)
    elif layout.num_tokens > _MOST_DENSE_TOKENS:
        raise ValueError(f"a dense bias of {layout.num_tokens} tokens is left out")
    else:
        index = torch.arange(layout.num_tokens, device=slopes.device)
        distance = index[:, None] - index[None, :]
        dense = (-slopes[:, None, None] * distance).to(torch.bfloat16)
        bias = dense.masked_fill(~visible(layout, window), float("-inf"))[None]

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (_expanded(x, q.shape[2]) for x in (k, v))
        return fmha.memory_efficient_attention(q, k, v, attn_bias=bias)

    return attend


def torch_varlen(layout: PackedLayout, slopes: Tensor | None, window: int | None) -> Attend:
    """``torch.nn.attention.varlen.varlen_attn``.

    Raises:
        ValueError: for linear biases, which it has not got.
    """
    from torch.nn.attention.varlen import varlen_attn

    if slopes is not None:
        raise ValueError("has no linear biases")
    known = inspect.signature(varlen_attn).parameters
    if "window_size" in known:
        options: dict[str, Any] = {"window_size": (-1 if window is None else window - 1, 0)}
    elif window is None:
        options = {"is_causal": True}
    else:
        raise ValueError("has no window in this version of torch")
    longest = max(layout.lengths())

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if "enable_gqa" in known:
            options["enable_gqa"] = q.shape[2] != k.shape[2]
        else:
            k, v = (_expanded(x, q.shape[2]) for x in (k, v))
        bounds = layout.cu_seqlens
        q, k, v = (x.squeeze(0) for x in (q, k, v))
        out = varlen_attn(q, k, v, bounds, bounds, longest, longest, **options)
        assert isinstance(out, Tensor)
        return out[None]

    return attend


def padded_sdpa(layout: PackedLayout, slopes: Tensor | None, window: int | None) -> Attend:
    """A batch padded to the longest document, through ``scaled_dot_product_attention``.

    Raises:
        ValueError: if the padded batch is too large to be worth a try.
    """
    lengths = layout.lengths()
    longest, count = max(lengths), len(lengths)
    if longest**2 * count > _MOST_PADDED and slopes is not None:
        raise ValueError(f"padding to {count} x {longest} tokens with a bias is left out")
    device = layout.cu_seqlens.device
    document = torch.arange(count, device=device).repeat_interleave(
        torch.tensor(lengths, device=device)
    )
    place = document * longest + layout.position_ids
    mask = None
    if slopes is not None or window is not None:
        index = torch.arange(longest, device=device)
        distance = index[:, None] - index[None, :]
        hidden = (distance < 0) | (distance >= (window or longest))
        added = torch.zeros(1, 1, 1, device=device)
        if slopes is not None:
            added = -slopes[:, None, None] * distance
        mask = added.masked_fill(hidden, float("-inf"))

    def padded(x_BMHK: Tensor) -> Tensor:
        x = x_BMHK.new_zeros(count * longest, *x_BMHK.shape[2:])
        return x.index_copy(0, place, x_BMHK[0]).unflatten(0, (count, longest)).transpose(1, 2)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = F.scaled_dot_product_attention(
            padded(q),
            padded(_expanded(k, q.shape[2])),
            padded(_expanded(v, q.shape[2])),
            attn_mask=None if mask is None else mask.to(q.dtype),
            is_causal=mask is None,
        )
        return out.transpose(1, 2).flatten(0, 1)[place][None]

    return attend


PEERS: dict[str, Callable[[PackedLayout, Tensor | None, int | None], Attend]] = {
    "xformers as called": xformers_as_called,
    "torch varlen_attn": torch_varlen,
    "padded sdpa": padded_sdpa,
}
"""By the name shown; each makes a function of q, k, v for one row."""
CUDA_ONLY = ("xformers as called", "torch varlen_attn")
