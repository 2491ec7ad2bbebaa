"""Packed attention through xFormers on CUDA.

xFormers' public ``memory_efficient_attention`` trains grouped heads only with keys and values
expanded to all query heads, and its mask objects make torch.compile recompile for every packing.
The operators behind it do neither: they read fewer key/value heads natively, forward and backward,
and take the boundaries as a tensor. They are wrapped here as one custom op.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from packformer.attention.kernel import HALF, Kernel, Scoring, without_batch
from packformer.attention.kernels.flash_op import join_forward_and_backward
from packformer.attention.layout import PackedLayout
from packformer.attention.load_xformers import how_xformers_was_loaded, load_fmha

_MIN_CAPABILITY = (8, 0)
# A bound of one token means decoding to torch's operator: it regroups the heads of such calls, and
# fails where there are empty slots.
_SHORTEST_BOUND = 2


def _lacks() -> str | None:
    if torch.cuda.get_device_capability() < _MIN_CAPABILITY:
        return "needs compute capability 8.0 or newer"
    try:
        if not load_fmha().flash.FwOp.is_available():
            return "xFormers found no flash-attention operator in this build of torch"
    except ValueError as error:
        return str(error)
    return None


def _run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: PackedLayout,
    scoring: Scoring,
    block_mask: Any = None,
) -> Tensor:
    out_MHK, _ = _flash(
        *without_batch(q, k, v),
        layout.cu_seqlens,
        max(_SHORTEST_BOUND, layout.max_seqlen),
        scoring.window or 0,
        scoring.scale,
    )
    return out_MHK[None]


@torch.library.custom_op("packformer::xformers", mutates_args=(), device_types="cuda")
def _flash(
    q_MHK: Tensor,
    k_MGK: Tensor,
    v_MGK: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    window: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    out_MHK, lse_HM, _ = load_fmha().flash.FwOp.OPERATOR(
        q_MHK,
        k_MGK,
        v_MGK,
        cu_seqlens,
        cu_seqlens,
        None,  # seqused_k: all keys of a document are used
        max_seqlen,
        max_seqlen,
        0.0,  # dropout
        scale,
        True,  # causal
        window_left=window - 1,  # -1: no window
        window_right=-1,
        return_softmax=False,
        block_tables=None,
    )
    return out_MHK.contiguous(), lse_HM  # it may follow q's strides


@torch.library.custom_op("packformer::xformers_backward", mutates_args=(), device_types="cuda")
def _flash_backward(
    grad_MHK: Tensor,
    q_MHK: Tensor,
    k_MGK: Tensor,
    v_MGK: Tensor,
    out_MHK: Tensor,
    lse_HM: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    window: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = load_fmha().flash.BwOp.OPERATOR(
        False,  # q, k and v do not share storage
        grad_MHK,
        q_MHK,
        k_MGK,
        v_MGK,
        out_MHK,
        lse_HM,
        cu_seqlens,
        cu_seqlens,
        max_seqlen,
        max_seqlen,
        0.0,  # dropout
        scale,
        True,  # causal
        window_left=window - 1,
        window_right=-1,
        rng_state=None,  # read only with dropout
    )
    return dq.contiguous(), dk.contiguous(), dv.contiguous()


join_forward_and_backward(_flash, _flash_backward, tensors=1)

xformers_kernel = Kernel(
    name="xformers",
    description="xFormers' FlashAttention operators, grouped heads native",
    devices=("cuda",),
    dtypes=HALF,
    head_dims=range(8, 257, 8),
    features=frozenset({"grouped", "window"}),
    run=_run,
    lacks=_lacks,
    loaded=lambda device_type: how_xformers_was_loaded(),
    packages=("xformers", "triton"),
    slower_than=("flash4",),
)
