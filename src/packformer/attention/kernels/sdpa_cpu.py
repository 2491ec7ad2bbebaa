"""Packed attention through torch's fused SDPA kernel for CPU: linear biases and windows at most.

Documents go through it one by one, short ones of about the same length together, padded by less
than 8 tokens. It keeps the log-sum-exp of the forward for its backward, so nothing is recomputed
and no score matrix is kept. Grouped heads are passed as a batch of G with H/G query heads whose
keys and values have stride 0: they are shared, not copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from packformer.attention.kernels.flash_op import join_gradient
from packformer.attention.layout import document_slices

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_SHORT = 32  # tokens: documents up to this length are computed together
_STEP = 8  # those whose lengths lie within a step of this many tokens


@dataclass(frozen=True)
class _Together:
    """N documents that are computed together, padded to L tokens; a single one is not copied.

    Padding is zero and comes after a document, where causality hides it.
    """

    where: slice | Tensor  # of the row, or of each token [N, L]
    is_token: Tensor | None  # [N, L]; None if nothing is padding
    length: int

    def read(self, x_M: Tensor) -> Tensor:
        """``[M, ...]`` to ``[N, L, ...]``."""
        if isinstance(self.where, slice):
            return x_M[self.where][None]
        assert self.is_token is not None
        is_token = self.is_token.view(*self.is_token.shape, *[1] * (x_M.ndim - 1))
        return x_M[self.where].masked_fill_(~is_token, 0)

    def write(self, x_M: Tensor, values_NL: Tensor) -> None:
        """The inverse, into ``x_M``."""
        if isinstance(self.where, slice):
            x_M[self.where] = values_NL[0]
        else:
            x_M[self.where[self.is_token]] = values_NL[self.is_token]


def _together(cu_seqlens: Tensor) -> Iterator[_Together]:
    """Groups short documents of about the same length, because a call each would cost more."""
    short: dict[int, list[slice]] = {}
    for d in document_slices(cu_seqlens):
        length = d.stop - d.start
        if length > _SHORT:
            yield _Together(d, None, length)
        else:
            short.setdefault(-(-length // _STEP) * _STEP, []).append(d)
    for longest, documents in short.items():
        if len(documents) == 1:
            yield _Together(documents[0], None, documents[0].stop - documents[0].start)
            continue
        starts = torch.tensor([d.start for d in documents])[:, None]
        ends = torch.tensor([d.stop for d in documents])[:, None]
        index_NL = starts + torch.arange(longest)
        is_token_NL = index_NL < ends
        yield _Together(index_NL.minimum(ends - 1), is_token_NL, longest)


def _to_heads(x_NLHK: Tensor, num_kv_heads: int, queries_per_kv: int) -> Tensor:
    """``[N, L, H or G, K]`` as ``[N G, H/G, L, K]``, as the kernel reads it; a view if N is 1."""
    x_NLGRK = x_NLHK.unflatten(2, (num_kv_heads, -1))
    return x_NLGRK.permute(0, 2, 3, 1, 4).flatten(0, 1).expand(-1, queries_per_kv, -1, -1)


def _from_heads(x_BRL: Tensor, num_kv_heads: int) -> Tensor:
    """``[N G, R, L, ...]`` as ``[N, L, G R, ...]``."""
    return x_BRL.unflatten(0, (-1, num_kv_heads)).movedim(3, 1).flatten(2, 3)


def _corner(bias: Tensor | None, documents: _Together, num_batches: int) -> Tensor | None:
    """The bias of documents of L tokens, for all ``num_batches`` = N G of them."""
    if bias is None:
        return None
    corner = bias[..., : documents.length, : documents.length]
    return corner if len(corner) == 1 else corner.repeat(num_batches // len(corner), 1, 1, 1)


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


@torch.library.custom_op("packformer::sdpa_cpu", mutates_args=(), device_types="cpu")
def sdpa_cpu(
    q_MHK: Tensor,
    k_MGK: Tensor,
    v_MGK: Tensor,
    cu_seqlens: Tensor,
    slopes: Tensor | None,
    window: int | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    num_kv_heads = k_MGK.shape[1]
    group = q_MHK.shape[1] // num_kv_heads
    batches = list(_together(cu_seqlens))
    longest = max(documents.length for documents in batches)
    bias = _score_bias(longest, num_kv_heads, q_MHK.dtype, slopes, window)
    out_MHK = torch.empty(q_MHK.shape, dtype=q_MHK.dtype)
    lse_dtype = torch.float64 if q_MHK.dtype == torch.float64 else torch.float32
    lse_MH = torch.empty(q_MHK.shape[:2], dtype=lse_dtype)
    for documents in batches:
        q, k, v = (_to_heads(documents.read(x), num_kv_heads, group) for x in (q_MHK, k_MGK, v_MGK))
        mask = _corner(bias, documents, len(q))
        out, lse = _forward(q, k, v, is_causal=bias is None, attn_mask=mask, scale=scale)
        documents.write(out_MHK, _from_heads(out, num_kv_heads))
        documents.write(lse_MH, _from_heads(lse, num_kv_heads))
    return out_MHK, lse_MH


@sdpa_cpu.register_fake
def _(q_MHK, k_MGK, v_MGK, cu_seqlens, slopes, window, scale):  # type: ignore[no-untyped-def]
    lse_dtype = torch.float64 if q_MHK.dtype == torch.float64 else torch.float32
    return q_MHK.new_empty(q_MHK.shape), q_MHK.new_empty(q_MHK.shape[:2], dtype=lse_dtype)


@torch.library.custom_op("packformer::sdpa_cpu_backward", mutates_args=(), device_types="cpu")
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
    num_kv_heads = k_MGK.shape[1]
    group = q_MHK.shape[1] // num_kv_heads
    batches = list(_together(cu_seqlens))
    longest = max(documents.length for documents in batches)
    bias = _score_bias(longest, num_kv_heads, q_MHK.dtype, slopes, window)
    dq = torch.empty(q_MHK.shape, dtype=q_MHK.dtype)
    dk, dv = (torch.empty(x.shape, dtype=x.dtype) for x in (k_MGK, v_MGK))
    for documents in batches:
        grad, q, k, v, out = (
            _to_heads(documents.read(x), num_kv_heads, group)
            for x in (grad_MHK, q_MHK, k_MGK, v_MGK, out_MHK)
        )
        lse = _to_heads(documents.read(lse_MH)[..., None], num_kv_heads, group)[..., 0]
        mask = _corner(bias, documents, len(q))
        grads = _backward(grad, q, k, v, out, lse, 0.0, bias is None, attn_mask=mask, scale=scale)
        documents.write(dq, _from_heads(grads[0], num_kv_heads))
        for target, gradient in zip((dk, dv), grads[1:], strict=True):
            documents.write(target, _from_heads(gradient.sum(1, keepdim=True), num_kv_heads))
    return dq, dk, dv


join_gradient(sdpa_cpu, _sdpa_backward, tensors=2)
