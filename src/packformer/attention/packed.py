"""The one attention function, and the choice of the kernel behind it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from packformer.attention.flex import flex_kernel
from packformer.attention.kernel import Kernel, Variant
from packformer.attention.layout import PackedLayout
from packformer.attention.reference import reference_kernel
from packformer.attention.sdpa import sdpa_kernel
from packformer.attention.xformers import xformers_kernel

_BY_PREFERENCE = (xformers_kernel, flex_kernel, sdpa_kernel)
KERNELS = {kernel.name: kernel for kernel in (*_BY_PREFERENCE, reference_kernel)}


def select_kernel(variant: Variant, requested: str = "auto") -> tuple[Kernel, str]:
    """The kernel that runs ``variant``, and why.

    Args:
        variant: what is asked of the kernel.
        requested: a kernel's name, or ``"auto"`` for the first in order of preference (xformers,
            flex, sdpa) that supports the variant. The float64 reference runs only if named.

    Raises:
        ValueError: if no such kernel exists, or none can run the variant; says why.
    """
    if requested != "auto":
        if requested not in KERNELS:
            raise ValueError(
                f"unknown attention kernel {requested!r}: use auto or one of {', '.join(KERNELS)}"
            )
        kernel = KERNELS[requested]
        if reason := kernel.unsupported(variant):
            able = [k.name for k in _BY_PREFERENCE if not k.unsupported(variant)]
            raise ValueError(
                f"attention kernel {requested} cannot run this variant: it {reason}; "
                f"kernels that can: {', '.join(able) or 'none'}"
            )
        return kernel, "as requested"
    refusals: list[str] = []
    for kernel in _BY_PREFERENCE:
        reason = kernel.unsupported(variant)
        if reason is None:
            return kernel, "; ".join(refusals) or "first choice"
        refusals.append(f"{kernel.name} {reason}")
    raise ValueError(f"no attention kernel for {variant}: {'; '.join(refusals)}")


def packed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: PackedLayout,
    *,
    alibi_slopes: Tensor | None = None,
    window: int | None = None,
    scale: float | None = None,
    kernel: str | Kernel = "auto",
    prepared: Any = None,
) -> Tensor:
    r"""Causal attention within each document of a packed row.

    For query ``i`` and head ``h``, over the keys ``j <= i`` of the same document with
    ``i - j < window``:

    .. math:: out_i = \sum_j softmax_j(scale \cdot q_i \cdot k_j - slope_h \cdot (i - j)) \, v_j

    (Vaswani et al. 2017; grouped heads: Ainslie et al. 2023; linear biases: Press et al. 2022).

    Args:
        q: ``[1, M, H, K]`` queries.
        k: ``[1, M, G, K]`` keys; G divides H, and query head ``h`` reads key/value head
            ``h // (H / G)``. All of one dtype.
        v: ``[1, M, G, K]`` values.
        layout: where each document lies in the row of M tokens.
        alibi_slopes: float32 ``[H]``, bias per token of distance; None for no bias.
        window: number of tokens a query sees, its own included; None for the whole document.
        scale: factor on the scores; default ``K ** -0.5``.
        kernel: ``"auto"``, a name from ``KERNELS``, or what ``select_kernel`` chose for such calls:
            its support is then not checked again.
        prepared: what ``kernel.prepare(layout, window)`` returned, if several layers share it.

    Returns:
        ``[1, M, H, K]`` in the dtype of ``q`` (float64 from the reference).

    Raises:
        ValueError: if shapes, dtypes or options do not fit, or the kernel cannot run them.
    """
    _check(q, k, v, layout, alibi_slopes, window)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if isinstance(kernel, str):
        variant = Variant(
            device_type=q.device.type,
            dtype=q.dtype,
            head_dim=q.shape[-1],
            grouped=k.shape[2] != q.shape[2],
            alibi=alibi_slopes is not None,
            window=window is not None,
        )
        kernel, _ = select_kernel(variant, kernel)
    return kernel.run(
        q,
        k,
        v,
        layout,
        alibi_slopes=alibi_slopes,
        window=window,
        scale=scale,
        prepared=prepared,
    )


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: PackedLayout,
    alibi_slopes: Tensor | None,
    window: int | None,
) -> None:
    if q.ndim != 4 or k.ndim != 4 or q.shape[0] != 1 or k.shape[0] != 1 or k.shape != v.shape:
        raise ValueError(
            f"q {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)} must be [1, M, H, K], "
            f"[1, M, G, K] and [1, M, G, K]"
        )
    if q.shape[1] != layout.num_tokens or k.shape[1] != layout.num_tokens:
        raise ValueError(
            f"q has {q.shape[1]} tokens and k {k.shape[1]}, the layout {layout.num_tokens}"
        )
    if q.shape[3] != k.shape[3] or k.shape[2] < 1 or q.shape[2] % k.shape[2]:
        raise ValueError(
            f"num_heads ({q.shape[2]}) must be divisible by num_kv_heads ({k.shape[2]}), "
            f"and their head sizes ({q.shape[3]}, {k.shape[3]}) equal"
        )
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k, v must share a dtype, not {q.dtype}, {k.dtype}, {v.dtype}")
    if window is not None and (not isinstance(window, int) or window < 1):
        raise ValueError(f"window ({window}) must be a whole number from 1 up")
    if alibi_slopes is not None and alibi_slopes.shape != (q.shape[2],):
        raise ValueError(
            f"alibi_slopes {list(alibi_slopes.shape)} must be [{q.shape[2]}], one per query head"
        )
