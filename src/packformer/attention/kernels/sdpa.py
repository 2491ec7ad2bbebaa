"""Exact packed attention, document by document.

On CPU, with at most linear biases and a window, through torch's fused SDPA kernel for CPU. With the
rest, and on other devices, by the formula.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from packformer.attention.kernel import FEATURES, HALF, Kernel, Scoring, without_batch
from packformer.attention.kernels.sdpa_cpu import sdpa_cpu
from packformer.attention.kernels.sdpa_formula import sdpa_formula
from packformer.attention.layout import PackedLayout
from packformer.counted import counted


def _loaded(device_type: str) -> str:
    if device_type == "cpu":
        return f"torch's own kernels, {counted(torch.get_num_threads(), 'thread')}"
    return "loaded"


def _run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: PackedLayout,
    scoring: Scoring,
    block_mask: Any = None,
) -> Tensor:
    slopes, window, scale = scoring.slopes(q), scoring.window, scoring.scale
    cu_seqlens, bias, cap = layout.cu_seqlens, scoring.bias, scoring.soft_cap
    fused = q.device.type == "cpu" and not scoring.features() - {"window", "alibi", "given_alibi"}
    if fused:
        # In half precision torch's kernel for CPU loses more than the rounding of its inputs.
        q_MHK, k_MGK, v_MGK = (x.float() if x.dtype in HALF else x for x in without_batch(q, k, v))
        out_MHK, _ = sdpa_cpu(q_MHK, k_MGK, v_MGK, cu_seqlens, slopes, window, scale)
        out_MHK = out_MHK.to(q.dtype)
    else:
        out_MHK = sdpa_formula(
            *without_batch(q, k, v), slopes, bias, cu_seqlens, window, scale, cap
        )
    return out_MHK[None]


sdpa_kernel = Kernel(
    name="sdpa",
    description="exact, document by document",
    devices=("cpu", "cuda"),
    dtypes=(torch.float32, torch.float64, *HALF),
    head_dims=range(1, 4097),
    features=frozenset(FEATURES) - {"score_mod"},
    run=_run,
    loaded=_loaded,
    slower_than=("flash4", "xformers", "flex"),
)
