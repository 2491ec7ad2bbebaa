"""Checks of the row that a model is given.

Shapes and types are checked on every device. Values are checked where that waits for nothing, on a
CPU, and everywhere with ``PACKFORMER_DEBUG=1``. Compiled code checks nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from packformer.attention import PackedLayout
from packformer.attention.checks import debugging
from packformer.counted import counted

_ID_DTYPES = (torch.int64, torch.int32)


def check_row(tokens: Any, layout: Any, *, vocab_size: int, max_position: int) -> None:
    """Refuses what a model cannot read.

    Args:
        tokens: int64 ``[1, M]``.
        layout: where each document lies in the row.
        vocab_size: token ids are below it.
        max_position: longest document, in tokens.

    Raises:
        ValueError: naming the value, the rule and the remedy.
    """
    _check_tokens(tokens)
    if not isinstance(layout, PackedLayout):
        raise ValueError(
            f"layout ({type(layout).__name__}) must be a PackedLayout: batch.layout, or make one "
            "with PackedLayout.from_lengths"
        )
    if tokens.shape[1] != layout.num_tokens:
        raise ValueError(
            f"tokens {list(tokens.shape)} and the layout of {counted(layout.num_tokens, 'token')} "
            "must be of one row"
        )
    if tokens.device != layout.position_ids.device:
        raise ValueError(
            f"tokens are on {tokens.device}, the layout on {layout.position_ids.device}: move both "
            "with batch.to(device)"
        )
    if tokens.device.type == "cpu" or (debugging() and tokens.device.type != "meta"):
        _check_ids(tokens, vocab_size)
        _check_longest(layout, max_position)


def check_counted(layout: PackedLayout, *, max_position: int) -> None:
    """Refuses a row that positions count through, if it is longer than they go.

    Raises:
        ValueError: naming the value, the rule and the remedy.
    """
    if layout.num_tokens > max_position:
        raise ValueError(
            f"positions count through the row ({counted(layout.num_tokens, 'token')}) beyond "
            f"max_position ({max_position}): make the model with "
            f"max_position={layout.num_tokens}, or leave restart_positions true"
        )


def _check_tokens(tokens: Any) -> None:
    if not isinstance(tokens, Tensor):
        raise ValueError(f"tokens ({type(tokens).__name__}) must be a tensor, int64 [1, M]")
    if tokens.ndim != 2 or tokens.shape[0] != 1 or not tokens.shape[1]:
        cure = "use tokens[None]" if tokens.ndim == 1 else "lay all documents in one row"
        raise ValueError(f"tokens {list(tokens.shape)} must be [1, M]: {cure}")
    if tokens.dtype not in _ID_DTYPES:
        raise ValueError(f"tokens ({tokens.dtype}) must be int64: use .long()")


def _check_ids(tokens: Tensor, vocab_size: int) -> None:
    least, most = (int(bound) for bound in tokens.aminmax())
    if least < 0 or most >= vocab_size:
        raise ValueError(
            f"token ids {least} to {most} must lie from 0 up and below vocab_size ({vocab_size})"
        )


def _check_longest(layout: PackedLayout, max_position: int) -> None:
    if layout.max_seqlen <= max_position:
        return
    longest = int(layout.position_ids.max()) + 1
    if longest > max_position:
        raise ValueError(
            f"the longest document ({counted(longest, 'token')}) exceeds max_position "
            f"({max_position}): pack with max_document_length=model.max_position, or call "
            f"model.extend({longest})"
        )
