"""Exact packed attention, document by document.

On CPU, with at most linear biases and a window, through torch's fused SDPA kernel for CPU. With the
rest, and on other devices, by the formula, with one document's weights in memory at a time.
Short documents of about the same length go through it together, padded by less than 8 tokens.
The fused kernel keeps the log-sum-exp of the forward for its backward, so nothing is recomputed
and no score matrix is kept. Grouped heads are passed as a batch of G with H/G query heads whose
keys and values have stride 0: they are shared, not copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from packformer.attention.kernel import FEATURES, HALF, Kernel, Scoring, without_batch
from packformer.attention.layout import PackedLayout

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_SHORT = 32  # tokens: documents up to this length are computed together
_STEP = 8  # those whose lengths lie within a step of this many tokens


def _run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: PackedLayout,
    scoring: Scoring,
    prepared: Any = None,
) -> Tensor:
    slopes, window, scale = scoring.slopes(q), scoring.window, scoring.scale
    cu_seqlens, bias, cap = layout.cu_seqlens, scoring.bias, scoring.soft_cap
    fused = q.device.type == "cpu" and not scoring.features() - {"window", "alibi", "given_alibi"}
    if fused:
        # In half precision torch's kernel for CPU loses more than the rounding of its inputs.
        q_MHK, k_MGK, v_MGK = (x.float() if x.dtype in HALF else x for x in without_batch(q, k, v))
        out_MHK, _ = _sdpa(q_MHK, k_MGK, v_MGK, cu_seqlens, slopes, window, scale)
        out_MHK = out_MHK.to(q.dtype)
    else:
        out_MHK = _any_sdpa(*without_batch(q, k, v), slopes, bias, cu_seqlens, window, scale, cap)
    return out_MHK[None]


def _documents(cu_seqlens: Tensor) -> Iterator[slice]:
    bounds = cu_seqlens.tolist()
    for start, end in zip(bounds, bounds[1:], strict=False):
        if end > start:
            yield slice(start, end)


@dataclass(frozen=True)
class _Equals:
    """N documents that are computed together, padded to L tokens; a single one is not copied.

    Padding stands behind a document, where causality hides it, and is zero.
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


def _equals(cu_seqlens: Tensor) -> Iterator[_Equals]:
    """All documents; short ones of about the same length together, as calls would outweigh them."""
    short: dict[int, list[slice]] = {}
    for d in _documents(cu_seqlens):
        length = d.stop - d.start
        if length > _SHORT:
            yield _Equals(d, None, length)
        else:
            short.setdefault(-(-length // _STEP) * _STEP, []).append(d)
    for longest, documents in short.items():
        if len(documents) == 1:
            yield _Equals(documents[0], None, documents[0].stop - documents[0].start)
            continue
        starts = torch.tensor([d.start for d in documents])[:, None]
        ends = torch.tensor([d.stop for d in documents])[:, None]
        index_NL = starts + torch.arange(longest)
        is_token_NL = index_NL < ends
        yield _Equals(index_NL.minimum(ends - 1), is_token_NL, longest)


def _to_heads(x_NLHK: Tensor, num_kv_heads: int, queries_per_kv: int) -> Tensor:
    """``[N, L, H or G, K]`` as ``[N G, H/G, L, K]``, as the kernel reads it; a view if N is 1."""
    x_NLGRK = x_NLHK.unflatten(2, (num_kv_heads, -1))
    return x_NLGRK.permute(0, 2, 3, 1, 4).flatten(0, 1).expand(-1, queries_per_kv, -1, -1)


def _from_heads(x_BRL: Tensor, num_kv_heads: int) -> Tensor:
    """``[N G, R, L, ...]`` as ``[N, L, G R, ...]``."""
    return x_BRL.unflatten(0, (-1, num_kv_heads)).movedim(3, 1).flatten(2, 3)


def _corner(bias: Tensor | None, documents: _Equals, num_batches: int) -> Tensor | None:
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
    num_kv_heads = k_MGK.shape[1]
    group = q_MHK.shape[1] // num_kv_heads
    batches = list(_equals(cu_seqlens))
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
    num_kv_heads = k_MGK.shape[1]
    group = q_MHK.shape[1] // num_kv_heads
    batches = list(_equals(cu_seqlens))
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


@torch.library.custom_op("packformer::any_sdpa", mutates_args=())
def _any_sdpa(
    q_MHK: Tensor,
    k_MGK: Tensor,
    v_MGK: Tensor,
    slopes: Tensor | None,
    bias: Tensor | None,
    cu_seqlens: Tensor,
    window: int | None,
    scale: float,
    soft_cap: float | None,
) -> Tensor:
    outputs = []
    for d in _documents(cu_seqlens):
        document = _Document(q_MHK, k_MGK, v_MGK, d)
        weights_HLL, _ = document.weights(slopes, bias, window, scale, soft_cap)
        outputs.append((weights_HLL @ document.v_HLK).transpose(0, 1).to(q_MHK.dtype))
    return torch.cat(outputs)


class _Document:
    """One document's heads, at least in float32, those of a group repeated."""

    def __init__(self, q_MHK: Tensor, k_MGK: Tensor, v_MGK: Tensor, d: slice) -> None:
        self.d = d
        self.group = q_MHK.shape[1] // k_MGK.shape[1]
        self.q_HLK = self.by_head(q_MHK)
        self.k_HLK = self.by_head(k_MGK).repeat_interleave(self.group, dim=0)
        self.v_HLK = self.by_head(v_MGK).repeat_interleave(self.group, dim=0)
        index = torch.arange(d.stop - d.start, device=q_MHK.device)
        self.distance_LL = index[:, None] - index[None, :]

    def by_head(self, x_MHK: Tensor) -> Tensor:
        x_HLK = x_MHK[self.d].transpose(0, 1)
        return x_HLK if x_HLK.dtype == torch.float64 else x_HLK.float()

    def summed_over_groups(self, x_HLK: Tensor) -> Tensor:
        return x_HLK.unflatten(0, (-1, self.group)).sum(1).transpose(0, 1)

    def weights(
        self,
        slopes: Tensor | None,
        bias: Tensor | None,
        window: int | None,
        scale: float,
        soft_cap: float | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Softmax weights ``[H, L, L]``, and the soft-cap's tangent if there is one."""
        scores_HLL = self.q_HLK @ self.k_HLK.mT * scale
        tanh_HLL = None
        if soft_cap is not None:
            tanh_HLL = (scores_HLL / soft_cap).tanh()
            scores_HLL = soft_cap * tanh_HLL
        if bias is not None:
            scores_HLL = scores_HLL + bias[:, self.d, self.d]
        if slopes is not None:
            scores_HLL = scores_HLL - slopes.to(scores_HLL.dtype)[:, None, None] * self.distance_LL
        hidden_LL = self.distance_LL < 0
        if window is not None:
            hidden_LL |= self.distance_LL >= window
        return scores_HLL.masked_fill(hidden_LL, float("-inf")).softmax(-1), tanh_HLL


@_any_sdpa.register_fake
def _(q_MHK, *args):  # type: ignore[no-untyped-def]
    return q_MHK.new_empty(q_MHK.shape)


@torch.library.custom_op("packformer::any_sdpa_backward", mutates_args=())
def _any_sdpa_backward(
    grad_MHK: Tensor,
    q_MHK: Tensor,
    k_MGK: Tensor,
    v_MGK: Tensor,
    slopes: Tensor | None,
    bias: Tensor | None,
    cu_seqlens: Tensor,
    window: int | None,
    scale: float,
    soft_cap: float | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Recomputes each document; gradients of absent slopes or bias are empty tensors."""
    given = (q_MHK, k_MGK, v_MGK, slopes, bias)
    dq, dk, dv, dslopes, dbias = (
        q_MHK.new_empty(0) if x is None else torch.zeros_like(x) for x in given
    )
    for d in _documents(cu_seqlens):
        document = _Document(q_MHK, k_MGK, v_MGK, d)
        weights_HLL, tanh_HLL = document.weights(slopes, bias, window, scale, soft_cap)
        grad_HLK = document.by_head(grad_MHK)
        dweights_HLL = grad_HLK @ document.v_HLK.mT
        mean_HL1 = (weights_HLL * dweights_HLL).sum(-1, keepdim=True)
        dscores_HLL = weights_HLL * (dweights_HLL - mean_HL1)
        if slopes is not None:
            dslopes -= (dscores_HLL * document.distance_LL).sum((-2, -1))
        if bias is not None:
            dbias[:, d, d] += dscores_HLL.sum_to_size(dbias[:, d, d].shape)
        if tanh_HLL is not None:
            dscores_HLL = dscores_HLL * (1 - tanh_HLL**2)
        dq[d] = (dscores_HLL @ document.k_HLK * scale).transpose(0, 1)
        dk[d] = document.summed_over_groups(dscores_HLL.mT @ document.q_HLK * scale)
        dv[d] = document.summed_over_groups(weights_HLL.mT @ grad_HLK)
    return dq, dk, dv, dslopes, dbias


@_any_sdpa_backward.register_fake
def _(grad_MHK, *args):  # type: ignore[no-untyped-def]
    return tuple(grad_MHK.new_empty(0) if x is None else x.new_empty(x.shape) for x in args[:5])


def _any_setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    q, k, v, slopes, bias, cu_seqlens, ctx.window, ctx.scale, ctx.soft_cap = inputs
    ctx.save_for_backward(q, k, v, slopes, bias, cu_seqlens)


def _any_autograd_backward(ctx, grad_MHK: Tensor):  # type: ignore[no-untyped-def]
    grads = _any_sdpa_backward(
        grad_MHK.contiguous(), *ctx.saved_tensors, ctx.window, ctx.scale, ctx.soft_cap
    )
    needed = [
        grad if needs else None for grad, needs in zip(grads, ctx.needs_input_grad[:5], strict=True)
    ]
    return *needed, None, None, None, None


_any_sdpa.register_autograd(_any_autograd_backward, setup_context=_any_setup_context)

sdpa_kernel = Kernel(
    name="sdpa",
    description="torch scaled_dot_product_attention, document by document",
    devices=("cpu", "cuda"),
    dtypes=(torch.float32, torch.float64, *HALF),
    head_dims=range(1, 4097),
    features=frozenset(FEATURES) - {"score_mod"},
    run=_run,
)
