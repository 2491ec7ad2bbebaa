"""Exact packed attention on CPU: torch's fused SDPA kernel, document by document.

The fused kernel keeps the log-sum-exp of the forward for its backward, so nothing is recomputed
and no score matrix is kept. Grouped heads are passed as a batch of G with H/G query heads whose
keys and values have stride 0: they are shared, not copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from packformer.attention.kernel import Kernel, Variant
from packformer.attention.layout import PackedLayout

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def _unsupported(variant: Variant) -> str | None:
    return None if variant.device_type == "cpu" else "runs on CPU only"


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
    out_MHK, _ = _sdpa(q[0], k[0], v[0], layout.cu_seqlens, alibi_slopes, window, scale)
    return out_MHK[None]


def _documents(cu_seqlens: Tensor) -> Iterator[slice]:
    bounds = cu_seqlens.tolist()
    for start, end in zip(bounds, bounds[1:], strict=False):
        if end > start:
            yield slice(start, end)


def _grouped(x_LHK: Tensor, num_kv_heads: int, queries_per_kv: int) -> Tensor:
    """``[L, H or G, K]`` as the ``[G, H/G, L, K]`` the fused kernel reads; a view."""
    x_LGRK = x_LHK.unflatten(1, (num_kv_heads, -1))
    return x_LGRK.expand(-1, -1, queries_per_kv, -1).permute(1, 2, 0, 3)


def _score_bias(
    longest: int, num_kv_heads: int, dtype: torch.dtype, slopes: Tensor | None, window: int | None
) -> Tensor | None:
    """Additive causal bias ``[G, R or 1, L, L]`` of the longest document; None if plain causal.

    It depends on distances alone: its top left corner serves every shorter document.
    """
    if slopes is None and (window is None or window >= longest):
        return None
    index = torch.arange(longest)
    distance_LL = index[:, None] - index[None, :]
    hidden_LL = distance_LL < 0
    if window is not None:
        hidden_LL |= distance_LL >= window
    if slopes is None:
        bias = torch.zeros(1, 1, longest, longest, dtype=dtype)
    else:
        bias = -slopes.to(dtype).view(num_kv_heads, -1, 1, 1) * distance_LL
    return bias.masked_fill(hidden_LL, float("-inf"))


@torch.library.custom_op("packformer::sdpa", mutates_args=(), device_types="cpu")
def _sdpa(
    q_MHK: Tensor,
    k_MGK: Tensor,
    v_MGK: Tensor,
    cu_seqlens: Tensor,
    slopes: Tensor | None,
    window: int | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    num_heads, num_kv_heads = q_MHK.shape[1], k_MGK.shape[1]
    group = num_heads // num_kv_heads
    documents = list(_documents(cu_seqlens))
    longest = max(d.stop - d.start for d in documents)
    bias = _score_bias(longest, num_kv_heads, q_MHK.dtype, slopes, window)
    out_MHK = torch.empty(q_MHK.shape, dtype=q_MHK.dtype)
    lse_dtype = torch.float64 if q_MHK.dtype == torch.float64 else torch.float32
    lse_MH = torch.empty(q_MHK.shape[:2], dtype=lse_dtype)
    for d in documents:
        length = d.stop - d.start
        out_GRLK, lse_GRL = _forward(
            _grouped(q_MHK[d], num_kv_heads, group),
            _grouped(k_MGK[d], num_kv_heads, group),
            _grouped(v_MGK[d], num_kv_heads, group),
            is_causal=bias is None,
            attn_mask=None if bias is None else bias[..., :length, :length],
            scale=scale,
        )
        out_MHK[d] = out_GRLK.permute(2, 0, 1, 3).flatten(1, 2)
        lse_MH[d] = lse_GRL.permute(2, 0, 1).flatten(1, 2)
    return out_MHK, lse_MH


@_sdpa.register_fake
def _(q_MHK, k_MGK, v_MGK, cu_seqlens, slopes, window, scale):  # type: ignore[no-untyped-def]
    lse_dtype = torch.float64 if q_MHK.dtype == torch.float64 else torch.float32
    return q_MHK.new_empty(q_MHK.shape), q_MHK.new_empty(q_MHK.shape[:2], dtype=lse_dtype)


@torch.library.custom_op("packformer::sdpa_backward", mutates_args=(), device_types="cpu")
def _sdpa_backward(
    grad_MHK: Tensor,
    q_MHK: Tensor,
    k_MGK: Tensor,
    v_MGK: Tensor,
    out_MHK: Tensor,
    lse_MH: Tensor,
    cu_seqlens: Tensor,
    slopes: Tensor | None,
    window: int | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    num_heads, num_kv_heads = q_MHK.shape[1], k_MGK.shape[1]
    group = num_heads // num_kv_heads
    documents = list(_documents(cu_seqlens))
    longest = max(d.stop - d.start for d in documents)
    bias = _score_bias(longest, num_kv_heads, q_MHK.dtype, slopes, window)
    dq = torch.empty(q_MHK.shape, dtype=q_MHK.dtype)
    dk, dv = (torch.empty(x.shape, dtype=x.dtype) for x in (k_MGK, v_MGK))
    for d in documents:
        length = d.stop - d.start
        dq_GRLK, dk_GRLK, dv_GRLK = _backward(
            _grouped(grad_MHK[d], num_kv_heads, group),
            _grouped(q_MHK[d], num_kv_heads, group),
            _grouped(k_MGK[d], num_kv_heads, group),
            _grouped(v_MGK[d], num_kv_heads, group),
            _grouped(out_MHK[d], num_kv_heads, group),
            lse_MH[d].T.unflatten(0, (num_kv_heads, group)),
            0.0,
            bias is None,
            attn_mask=None if bias is None else bias[..., :length, :length],
            scale=scale,
        )
        dq[d] = dq_GRLK.permute(2, 0, 1, 3).flatten(1, 2)
        dk[d] = dk_GRLK.sum(1).transpose(0, 1)
        dv[d] = dv_GRLK.sum(1).transpose(0, 1)
    return dq, dk, dv


@_sdpa_backward.register_fake
def _(grad_MHK, q_MHK, k_MGK, v_MGK, *args):  # type: ignore[no-untyped-def]
    return tuple(x.new_empty(x.shape) for x in (q_MHK, k_MGK, v_MGK))


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    q, k, v, cu_seqlens, slopes, ctx.window, ctx.scale = inputs
    ctx.save_for_backward(q, k, v, *output, cu_seqlens, slopes)
    ctx.mark_non_differentiable(output[1])


def _autograd_backward(ctx, grad_MHK: Tensor, _: Tensor):  # type: ignore[no-untyped-def]
    dq, dk, dv = _sdpa_backward(grad_MHK.contiguous(), *ctx.saved_tensors, ctx.window, ctx.scale)
    return dq, dk, dv, None, None, None, None


_sdpa.register_autograd(_autograd_backward, setup_context=_setup_context)

sdpa_kernel = Kernel(
    name="sdpa",
    description="torch scaled_dot_product_attention, document by document",
    unsupported=_unsupported,
    run=_run,
)
