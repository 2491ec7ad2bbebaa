"""Packed attention through FlashAttention-4 (``flash-attn-4``) on Hopper and newer GPUs.

It is no torch op and its linear biases are Python callables compiled into the kernel: both are
wrapped here as one custom op.

Source: https://github.com/Dao-AILab/flash-attention, package ``flash_attn.cute``.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from packformer.attention.kernel import HALF, PUBLISHED, Kernel, Scoring, without_batch
from packformer.attention.kernels.awaited import before_call
from packformer.attention.kernels.flash_op import join_forward_and_backward
from packformer.attention.layout import PackedLayout
from packformer.cache import cache_folder

_MIN_CAPABILITY = (9, 0)
_INSTALL = "pip install '.[hopper]'"


@cache
def _interface() -> ModuleType:
    """``flash_attn.cute.interface``.

    Raises:
        ValueError: if it is not installed or cannot be imported.
    """
    _keep_compiled_kernels()
    try:
        from flash_attn.cute import interface
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise ValueError(f"flash-attn-4 cannot be imported ({error}): {_INSTALL}") from error
    return interface


def _keep_compiled_kernels() -> None:
    """Keeps compiled kernels in the user's cache; flash-attn-4 reads this at its import."""
    folder = cache_folder() / "flash4"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # they are compiled in every process
    os.environ.setdefault("FLASH_ATTENTION_CUTE_DSL_CACHE_DIR", str(folder))
    os.environ.setdefault("FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED", "1")


def _lacks() -> str | None:
    # Said once per kernel compiled, of an argument that is not used. Here and not at the import,
    # because jobs of a sweep each begin with the filters of the first.
    warnings.filterwarnings("ignore", message=r"Argument aux_data .* cannot be converted")
    if torch.cuda.get_device_capability() < _MIN_CAPABILITY:
        return "needs compute capability 9.0 (Hopper) or newer"
    if importlib.util.find_spec("flash_attn") is None:
        return f"is not installed: {_INSTALL}"
    try:
        _interface()
    except ValueError as error:
        return str(error)
    return None


def _score_functions(
    q_MHK: Tensor, k_MGK: Tensor, slopes: Tensor | None, published: bool, soft_cap: float
) -> Any:
    from packformer.attention.kernels.flash4_scores import score_functions

    on_hopper = torch.cuda.get_device_capability(q_MHK.device)[0] == _MIN_CAPABILITY[0]
    repacked = _queries_per_kv(q_MHK, k_MGK) if on_hopper else 1
    kind = PUBLISHED if published else None if slopes is None else "given"
    return score_functions(kind, q_MHK.shape[1], soft_cap, repacked)


def _queries_per_kv(q_MHK: Tensor, k_MGK: Tensor) -> int:
    return q_MHK.shape[1] // k_MGK.shape[1]


def _run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: PackedLayout,
    scoring: Scoring,
    block_mask: Any = None,
) -> Tensor:
    published = isinstance(scoring.alibi_slopes, str)
    out_MHK, _ = _flash4(
        *without_batch(q, k, v),
        layout.cu_seqlens,
        None if published else scoring.slopes(q),
        published,
        layout.max_seqlen,
        scoring.window or 0,
        scoring.scale,
        scoring.soft_cap or 0.0,
    )
    return out_MHK[None]


def _options(
    max_seqlen: int, window: int, scale: float, cu_seqlens: Tensor, slopes: Tensor | None
) -> dict[str, Any]:
    return {
        "cu_seqlens_q": cu_seqlens,
        "cu_seqlens_k": cu_seqlens,
        "max_seqlen_q": max_seqlen,
        "max_seqlen_k": max_seqlen,
        "softmax_scale": scale,
        "causal": window == 0,
        "window_size_left": window - 1 if window else None,
        "window_size_right": 0 if window else None,
        "aux_tensors": None if slopes is None else [slopes],
    }


@torch.library.custom_op("packformer::flash4", mutates_args=(), device_types="cuda")
def _flash4(
    q_MHK: Tensor,
    k_MGK: Tensor,
    v_MGK: Tensor,
    cu_seqlens: Tensor,
    slopes: Tensor | None,
    published: bool,
    max_seqlen: int,
    window: int,
    scale: float,
    soft_cap: float,
) -> tuple[Tensor, Tensor]:
    before_call()
    functions = _score_functions(q_MHK, k_MGK, slopes, published, soft_cap)
    out_MHK, lse_HM, *_ = _interface()._flash_attn_fwd(
        q_MHK,
        k_MGK,
        v_MGK,
        score_mod=functions.forward,
        return_lse=True,
        **_options(max_seqlen, window, scale, cu_seqlens, slopes),
    )
    return out_MHK.contiguous(), lse_HM  # it may follow q's strides


@torch.library.custom_op("packformer::flash4_backward", mutates_args=(), device_types="cuda")
def _flash4_backward(
    grad_MHK: Tensor,
    q_MHK: Tensor,
    k_MGK: Tensor,
    v_MGK: Tensor,
    out_MHK: Tensor,
    lse_HM: Tensor,
    cu_seqlens: Tensor,
    slopes: Tensor | None,
    published: bool,
    max_seqlen: int,
    window: int,
    scale: float,
    soft_cap: float,
) -> tuple[Tensor, Tensor, Tensor]:
    functions = _score_functions(q_MHK, k_MGK, slopes, published, soft_cap)
    dq, dk, dv, *_ = _interface()._flash_attn_bwd(
        q_MHK,
        k_MGK,
        v_MGK,
        out_MHK,
        grad_MHK,
        lse_HM,
        score_mod=functions.recomputed,
        score_mod_bwd=functions.gradient,
        deterministic=torch.are_deterministic_algorithms_enabled(),
        **_options(max_seqlen, window, scale, cu_seqlens, slopes),
    )
    return dq.contiguous(), dk.contiguous(), dv.contiguous()


join_forward_and_backward(_flash4, _flash4_backward, tensors=2)

flash4_kernel = Kernel(
    name="flash4",
    description="FlashAttention-4",
    devices=("cuda",),
    dtypes=HALF,
    # Between these its backward is wrong on Hopper, where a head size rounded up to 16 is no
    # multiple of 32: 16, 40 and 80, measured with 4.0.0b36.
    head_dims=range(32, 257, 32),
    features=frozenset({"grouped", "window", "alibi", "given_alibi", "soft_cap"}),
    run=_run,
    lacks=_lacks,
    packages=("flash-attn-4", "nvidia-cutlass-dsl"),
    keeps_programs=True,
)
