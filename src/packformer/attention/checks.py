"""Checks of the arguments of packed attention.

The usual checks look only at shapes and types, so that nothing waits for the device. On a CPU there
is nothing to wait for, so they look at the boundaries too. With ``PACKFORMER_DEBUG=1`` in the
environment they look at all values.
"""

from __future__ import annotations

import inspect
import math
import os
from typing import Any

import torch
from torch import Tensor

from packformer.attention.kernel import PUBLISHED, Scoring
from packformer.attention.layout import PackedLayout
from packformer.counted import counted
from packformer.nn.position import ScoreMod
from packformer.settings import imported, name_of

SCORE_CALL = "f(score, batch, head, q_index, kv_index)"
DEBUG_VARIABLE = "PACKFORMER_DEBUG"
_OFF = ("", "0", "false", "no", "off")
_REMEDY = "make the layout with PackedLayout.from_lengths"


def check_call(q: Tensor, k: Tensor, v: Tensor, layout: PackedLayout, scoring: Scoring) -> None:
    """Checks shapes and types; in debug mode also values.

    Raises:
        ValueError: naming the value, the rule and the remedy.
    """
    _check_tensors(q, k, v)
    _check_layout(layout, q)
    _check_numbers(scoring)
    check_added(scoring, q)
    if not torch.compiler.is_compiling():
        check_score_mod(scoring.score_mod)
        if debugging() or q.device.type == "cpu":
            _check_bounds(layout)
        if debugging():
            _check_values(layout, scoring)


def check_added(scoring: Scoring, q: Tensor) -> None:
    """Checks shapes and types of what is added to the scores of ``q`` ``[1, M, H, K]``.

    Raises:
        ValueError: naming the value, the rule and the remedy.
    """
    _check_slopes(scoring, q)
    _check_bias(scoring, q)


def debugging() -> bool:
    """Whether the user asked for checks of values, which no compiled function can make."""
    return os.environ.get(DEBUG_VARIABLE, "").lower() not in _OFF


def check_are_tensors(q: Any, k: Any, v: Any) -> None:
    """Refuses anything but tensors, before a shape is asked for."""
    for name, value in (("q", q), ("k", k), ("v", v)):
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} ({type(value).__name__}) must be a tensor")


def _check_tensors(q: Tensor, k: Tensor, v: Tensor) -> None:
    shapes = f"q {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)}"
    if q.ndim != 4 or k.ndim != 4 or k.shape != v.shape or q.shape[1] != k.shape[1]:
        raise ValueError(
            f"{shapes} must be [1, M, H, K], [1, M, G, K] and [1, M, G, K]: reshape or permute them"
        )
    if q.shape[0] != 1 or k.shape[0] != 1:
        raise ValueError(f"{shapes} must have a batch of 1: lay all documents in one row")
    if 0 in (*q.shape, *k.shape):
        raise ValueError(f"{shapes} must have no empty dimension")
    if q.shape[3] != k.shape[3]:
        raise ValueError(
            f"head sizes of q ({q.shape[3]}) and of k and v ({k.shape[3]}) must agree: project "
            "them to one size"
        )
    if q.shape[2] % k.shape[2]:
        raise ValueError(
            f"num_heads ({q.shape[2]}) must be divisible by num_kv_heads ({k.shape[2]}): each "
            "key/value head serves equally many query heads"
        )
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(
            f"q, k, v must share a dtype, not {q.dtype}, {k.dtype}, {v.dtype}: convert with .to()"
        )
    if not q.device == k.device == v.device:
        raise ValueError(
            f"q, k, v must share a device, not {q.device}, {k.device}, {v.device}: move with .to()"
        )


def _check_layout(layout: Any, q: Tensor) -> None:
    if not isinstance(layout, PackedLayout):
        raise ValueError(
            f"layout ({type(layout).__name__}) must be a PackedLayout: make one with "
            "PackedLayout.from_lengths"
        )
    for name, value, dtype in (
        ("cu_seqlens", layout.cu_seqlens, torch.int32),
        ("position_ids", layout.position_ids, torch.int64),
    ):
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} ({type(value).__name__}) must be a tensor: {_REMEDY}")
        if value.dtype != dtype:
            short = str(dtype).removeprefix("torch.")
            raise ValueError(f"{name} ({value.dtype}) must be {short}: use .to({dtype})")
        if value.ndim != 1:
            raise ValueError(f"{name} {list(value.shape)} must have one dimension")
        if value.device != q.device:
            raise ValueError(
                f"{name} is on {value.device}, q on {q.device}: move it with layout.to(device)"
            )
    if layout.cu_seqlens.shape[0] < 2:
        raise ValueError(
            f"cu_seqlens must have at least two entries, 0 and the row's tokens: {_REMEDY}"
        )
    if not _is_whole(layout.max_seqlen) or layout.max_seqlen < 1:
        raise ValueError(f"max_seqlen ({layout.max_seqlen}) must be a whole number from 1 up")
    if q.shape[1] != layout.num_tokens:
        raise ValueError(
            f"q has {counted(q.shape[1], 'token')}, the layout {layout.num_tokens:,}: make the "
            "layout from the lengths of this row"
        )


def _check_numbers(scoring: Scoring) -> None:
    window = scoring.window
    if window is not None and (not _is_whole(window) or window < 1):
        raise ValueError(
            f"window ({window}) must be a whole number from 1 up, or None for the whole document"
        )
    if not _is_positive(scoring.scale):
        raise ValueError(
            f"scale ({scoring.scale}) must be a positive finite number; for another sign, negate q"
        )
    if scoring.soft_cap is not None and not _is_positive(scoring.soft_cap):
        raise ValueError(
            f"soft_cap ({scoring.soft_cap}) must be a positive finite number, or None for no cap"
        )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_positive(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < value < math.inf


def _check_slopes(scoring: Scoring, q: Tensor) -> None:
    slopes: Any = scoring.alibi_slopes
    if slopes is None or (isinstance(slopes, str) and slopes == PUBLISHED):
        return
    if not isinstance(slopes, Tensor):
        raise ValueError(f"alibi_slopes ({slopes!r}) must be {PUBLISHED!r}, or a tensor")
    if slopes.shape != (q.shape[2],):
        raise ValueError(
            f"alibi_slopes {list(slopes.shape)} must be [{q.shape[2]}], one per query head: index "
            "or expand it"
        )
    if slopes.dtype != torch.float32:
        raise ValueError(f"alibi_slopes ({slopes.dtype}) must be float32: use .float()")
    if slopes.device != q.device:
        raise ValueError(f"alibi_slopes is on {slopes.device}, q on {q.device}: move it there")


def _check_bias(scoring: Scoring, q: Tensor) -> None:
    bias: Any = scoring.bias
    if bias is None:
        return
    if not isinstance(bias, Tensor):
        raise ValueError(f"bias ({type(bias).__name__}) must be a tensor")
    num_tokens, num_heads = q.shape[1:3]
    wanted = [[n, num_tokens, num_tokens] for n in (num_heads, 1)]
    if list(bias.shape) not in wanted:
        raise ValueError(
            f"bias {list(bias.shape)} must be [H or 1, M, M], here {wanted[0]} or {wanted[1]}: "
            "index or expand it"
        )
    if bias.dtype not in (q.dtype, torch.float32):
        raise ValueError(
            f"bias ({bias.dtype}) must be float32 or of q's dtype ({q.dtype}); it is added to the "
            "scores: keys are hidden by documents and the window, not by a mask"
        )
    if bias.device != q.device:
        raise ValueError(f"bias is on {bias.device}, q on {q.device}: move it there")


def check_score_mod(score_mod: Any) -> None:
    """Refuses what cannot be called as FlexAttention calls it.

    Raises:
        ValueError: with the call.
    """
    if score_mod is None:
        return
    if not callable(score_mod):
        raise ValueError(f"score_mod ({score_mod!r}) must be a function, {SCORE_CALL}, or None")
    try:
        signature = inspect.signature(score_mod)
    except (TypeError, ValueError):  # written in C
        return
    try:
        signature.bind(*range(5))
    except TypeError as error:
        raise ValueError(
            f"score_mod ({name_of(score_mod)}) must take {SCORE_CALL}: {error}"
        ) from error


def requested_score_mod(asked: Any) -> ScoreMod | None:
    """The score function that a setting asks for.

    Args:
        asked: a function, where it stands (``"my_parts.f"``), or None.

    Raises:
        ValueError: if it cannot be imported or called.
    """
    function = imported("attention.score_mod", asked) if isinstance(asked, str) else asked
    if isinstance(function, torch.nn.Module):
        raise ValueError(
            f"score_mod ({name_of(function)}) must be a function: for trained parameters write a "
            "Position with score_mod"
        )
    check_score_mod(function)
    return function


def _check_bounds(layout: PackedLayout) -> None:
    bounds = layout.cu_seqlens.tolist()
    lengths = [end - start for start, end in zip(bounds, bounds[1:], strict=False)]
    if bounds[0] != 0 or bounds[-1] != layout.num_tokens:
        raise ValueError(
            f"cu_seqlens must go from 0 to the row's {counted(layout.num_tokens, 'token')}, "
            f"not from {bounds[0]} to {bounds[-1]}: {_REMEDY}"
        )
    if min(lengths) < 0:
        at = next(i for i, length in enumerate(lengths) if length < 0)
        raise ValueError(
            f"cu_seqlens must ascend, but {bounds[at + 1]} follows {bounds[at]}: {_REMEDY}"
        )
    if max(lengths) > layout.max_seqlen:
        raise ValueError(
            f"max_seqlen ({layout.max_seqlen}) must be at least the longest document "
            f"({counted(max(lengths), 'token')}): raise it, or split that document"
        )


def _check_values(layout: PackedLayout, scoring: Scoring) -> None:
    lengths = layout.cu_seqlens.cpu().diff()
    starts = layout.cu_seqlens[:-1].cpu().repeat_interleave(lengths)
    if not torch.equal(layout.position_ids.cpu(), torch.arange(layout.num_tokens) - starts):
        raise ValueError(
            f"position_ids must restart at 0 with each document of cu_seqlens: {_REMEDY}"
        )
    for name, value in (("alibi_slopes", scoring.alibi_slopes), ("bias", scoring.bias)):
        if isinstance(value, Tensor) and not value.isfinite().all():
            raise ValueError(
                f"{name} must be finite: hide keys by documents or the window, not by infinities"
            )
