"""Packed attention by the formula, document by document, on any device.

One document's weights are in memory at a time; the backward computes them again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from packformer.attention.layout import document_slices


@torch.library.custom_op("packformer::sdpa_formula", mutates_args=())
def sdpa_formula(
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
    for d in document_slices(cu_seqlens):
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


@sdpa_formula.register_fake
def _(q_MHK, *args):  # type: ignore[no-untyped-def]
    return q_MHK.new_empty(q_MHK.shape)


@torch.library.custom_op("packformer::sdpa_formula_backward", mutates_args=())
def _backward(
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
        q_MHK.new_empty(0) if x is None else x.new_zeros(x.shape) for x in given
    )
    for d in document_slices(cu_seqlens):
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


@_backward.register_fake
def _(grad_MHK, *args):  # type: ignore[no-untyped-def]
    return tuple(grad_MHK.new_empty(0) if x is None else x.new_empty(x.shape) for x in args[:5])


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    q, k, v, slopes, bias, cu_seqlens, ctx.window, ctx.scale, ctx.soft_cap = inputs
    ctx.save_for_backward(q, k, v, slopes, bias, cu_seqlens)


def _autograd_backward(ctx, grad_MHK: Tensor):  # type: ignore[no-untyped-def]
    grads = _backward(
        grad_MHK.contiguous(), *ctx.saved_tensors, ctx.window, ctx.scale, ctx.soft_cap
    )
    needed = [
        grad if needs else None for grad, needs in zip(grads, ctx.needs_input_grad[:5], strict=True)
    ]
    return *needed, None, None, None, None


sdpa_formula.register_autograd(_autograd_backward, setup_context=_setup_context)
