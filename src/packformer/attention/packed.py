"""The one attention function."""

from __future__ import annotations

import logging
import math
from functools import cache
from typing import Any

import torch
from torch import Tensor

from packformer.attention.checks import check_are_tensors, check_call
from packformer.attention.choice import kernel_named, select_kernel
from packformer.attention.kernel import Kernel, Scoring, Variant
from packformer.attention.kernels import KERNELS
from packformer.attention.layout import PackedLayout
from packformer.attention.proof.verdicts import known_wrong
from packformer.nn.position import ScoreMod, Slopes

log = logging.getLogger(__name__)

_LARGE_BIAS = 2**22  # numbers, 16 MB of float32: six heads of a row of 836 tokens


def packed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: PackedLayout,
    *,
    alibi_slopes: Slopes | None = None,
    window: int | None = None,
    scale: float | None = None,
    soft_cap: float | None = None,
    bias: Tensor | None = None,
    score_mod: ScoreMod | None = None,
    kernel: str | Kernel = "auto",
    block_mask: Any = None,
) -> Tensor:
    r"""Causal attention within each document of a packed row.

    For query ``i`` and head ``h``, over the keys ``j <= i`` of the same document with
    ``i - j < window``:

    .. math::
        s_{ij} = f(cap(scale \cdot q_i \cdot k_j) + bias_{hij} - slope_h \cdot (i - j)), \quad
        out_i = \sum_j softmax_j(s_{ij}) \, v_j

    with :math:`cap(s) = c \tanh(s / c)` (Vaswani et al. 2017; grouped heads: Ainslie et al. 2023;
    linear biases: Press et al. 2022; soft-cap: Gemma Team 2024).

    Args:
        q: ``[1, M, H, K]`` queries, or ``[1, M, G, H/G, K]``.
        k: ``[1, M, G, K]`` keys; G divides H, and query head ``h`` reads key/value head
            ``h // (H / G)``. All of one dtype. With 5-D queries ``[1, M, G, 1 or H/G, K]``.
        v: ``[1, M, G, K]`` values, shaped like the keys.
        layout: where each document lies in the row of M tokens.
        alibi_slopes: bias per token of distance: ``"published"`` for those of the paper, which
            some kernels compute faster than they read, or float32 ``[H]``; None for no bias. A
            gradient is computed if it requires one.
        window: number of tokens a query sees, its own included; None for the whole document.
        scale: positive factor on the scores; default ``K ** -0.5``.
        soft_cap: c; None for no cap.
        bias: ``[H or 1, M, M]`` added to the scores: memory and time quadratic in the row, whatever
            the documents. A gradient is computed if it requires one.
        score_mod: f, called as in FlexAttention: ``f(score, batch, head, q_index, kv_index)``, for
            each element, with indices counted over the row; None for the identity.
        kernel: ``"auto"`` for the first in order of preference without a verdict against it (models
            ask for the fastest that is proved, see ``select_proved_kernel``), a name from
            ``KERNELS``, what ``select_kernel`` chose for such calls, whose support is then not
            checked again, or your own ``Kernel``.
        block_mask: from ``kernel.block_mask(layout, window)``, if several layers share it.

    Returns:
        Like ``q``, in its dtype (float64 from the reference).

    Raises:
        ValueError: if shapes, dtypes or options do not fit, or the kernel cannot run them.
    """
    check_are_tensors(q, k, v)
    if q.ndim == 5:
        return _attend_5d(
            q,
            k,
            v,
            layout,
            alibi_slopes=alibi_slopes,
            window=window,
            scale=scale,
            soft_cap=soft_cap,
            bias=bias,
            score_mod=score_mod,
            kernel=kernel,
            block_mask=block_mask,
        )
    scoring = Scoring(
        scale=max(1, q.shape[-1]) ** -0.5 if scale is None else scale,
        window=window,
        soft_cap=soft_cap,
        alibi_slopes=alibi_slopes,
        bias=bias,
        score_mod=score_mod,
    )
    check_call(q, k, v, layout, scoring)
    if bias is not None and not torch.compiler.is_compiling():
        _announce_cost(tuple(bias.shape))
    if not isinstance(kernel, Kernel):
        variant = variant_of(q, k, scoring)
        kernel = kernel_named(
            _selected(
                variant.device_type,
                variant.dtype,
                variant.head_dim,
                sorted(variant.features),
                kernel,
            )
        )
    elif kernel.name not in KERNELS and not torch.compiler.is_compiling():
        select_kernel(variant_of(q, k, scoring), kernel)  # raises if it lacks what is asked
    # Kernels read the numbers of a head one after another.
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    return kernel.run(q, k, v, layout, scoring, block_mask)


@torch.compiler.assume_constant_result
def _selected(
    device_type: str, dtype: torch.dtype, head_dim: int, features: list[str], requested: str
) -> str:
    # Packages and files are looked for: nothing to trace. Compiled code keeps what was found then.
    variant = Variant(device_type, dtype, head_dim, frozenset(features))
    return select_kernel(variant, requested, known_wrong(variant))[0].name


@cache
def _announce_cost(shape: tuple[int, ...]) -> None:
    if math.prod(shape) < _LARGE_BIAS:
        return
    log.warning(
        "a bias of %s numbers: memory and time grow with the square of the row, whatever the "
        "documents; alibi_slopes and score_mod do not",
        f"{math.prod(shape):,}",
    )


def variant_of(q: Tensor, k: Tensor, scoring: Scoring) -> Variant:
    """What a call asks of a kernel."""
    grouped = {"grouped"} if k.shape[2] != q.shape[2] else set()
    return Variant(q.device.type, q.dtype, q.shape[-1], scoring.features() | grouped)


def _attend_5d(q: Tensor, k: Tensor, v: Tensor, layout: PackedLayout, **options: Any) -> Tensor:
    """xFormers' BMGHK: the heads of a group beside each other.

    Where keys and values were expanded without a copy, the first head of a group gets the gradient
    of all: right for what was expanded, not for the expanded tensor itself.
    """
    group = q.shape[3]
    if not (
        k.ndim == 5
        and k.shape == v.shape
        and k.shape[:3] == q.shape[:3]
        and k.shape[3] in (1, group)
        and k.shape[4] == q.shape[4]
    ):
        raise ValueError(
            f"q {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)} must be [1, M, G, H/G, K] "
            "and twice [1, M, G, 1 or H/G, K]: reshape or permute them"
        )
    # Heads that were expanded without a copy are shared: the kernel reads them once.
    shared = k.shape[3] == 1 or (k.stride(3) == 0 and v.stride(3) == 0)
    k, v = (x[:, :, :, 0] if shared else x.flatten(2, 3) for x in (k, v))
    out = packed_attention(q.flatten(2, 3), k, v, layout, **options)
    return out.unflatten(2, (-1, group))
