"""What every attention kernel offers, and what a model asks of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from packformer.attention.layout import PackedLayout


@dataclass(frozen=True)
class Variant:
    """The properties of an attention call that decide which kernels can run it.

    Attributes:
        device_type: ``"cpu"`` or ``"cuda"``.
        dtype: of queries, keys and values.
        head_dim: K.
        grouped: there are fewer key/value heads than query heads.
        alibi: linear position biases are added to the scores.
        window: a sliding window limits the visible tokens.
    """

    device_type: str
    dtype: torch.dtype
    head_dim: int
    grouped: bool = False
    alibi: bool = False
    window: bool = False


class KernelFunction(Protocol):
    """Computes ``packed_attention`` for arguments that were already checked."""

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        layout: PackedLayout,
        *,
        alibi_slopes: Tensor | None,
        window: int | None,
        scale: float,
        prepared: Any,
    ) -> Tensor:
        """``q`` ``[1, M, H, K]``, ``k`` and ``v`` ``[1, M, G, K]`` to ``[1, M, H, K]``."""
        ...


def _nothing(layout: PackedLayout, window: int | None) -> None:
    return None


@dataclass(frozen=True)
class Kernel:
    """One implementation of packed attention.

    Attributes:
        name: as on the command line.
        description: one line, for logs.
        unsupported: why the kernel cannot run a variant; None if it can.
        run: the implementation.
        prepare: what ``run`` needs to know of a row beside its layout, once for all layers.
    """

    name: str
    description: str
    unsupported: Callable[[Variant], str | None]
    run: KernelFunction
    prepare: Callable[[PackedLayout, int | None], Any] = _nothing
