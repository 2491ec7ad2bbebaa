"""What every attention kernel offers, and what a model asks of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from packformer.attention.layout import PackedLayout
from packformer.nn.position import ScoreMod, Slopes, published_slopes
from packformer.settings import Rule, shown

FEATURES = {
    "grouped": "fewer key/value heads than query heads",
    "window": "sliding window",
    "alibi": "linear biases",
    "given_alibi": "linear biases with given slopes",
    "learned_alibi": "gradients of the linear biases' slopes",
    "soft_cap": "soft-cap",
    "bias": "bias tensor",
    "learned_bias": "gradients of a bias tensor",
    "score_mod": "score function",
}
"""What a call can ask for beside plain causal attention, and how messages call it."""

PUBLISHED: Literal["published"] = "published"
HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Variant:
    """The properties of an attention call that decide which kernels can run it.

    Attributes:
        device_type: ``"cpu"`` or ``"cuda"``.
        dtype: of queries, keys and values.
        head_dim: K.
        features: names from ``FEATURES``.
    """

    device_type: str
    dtype: torch.dtype
    head_dim: int
    features: frozenset[str] = frozenset()

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        features = "".join(f" {name}" for name in FEATURES if name in self.features)
        return f"{self.device_type} {dtype} {self.head_dim}{features}"


class Scoring(NamedTuple):
    """How a query scores a key, see ``packed_attention``.

    Attributes:
        scale: factor on the product of query and key.
        window: tokens a query sees, its own included; None for all.
        soft_cap: scores ``s`` become ``soft_cap * tanh(s / soft_cap)``; None for no cap.
        alibi_slopes: float32 ``[H]``, or ``"published"``; None for no linear bias.
        bias: ``[H or 1, M, M]``; None for none.
        score_mod: the user's own last word; None for none.
    """

    scale: float
    window: int | None = None
    soft_cap: float | None = None
    alibi_slopes: Slopes | None = None
    bias: Tensor | None = None
    score_mod: ScoreMod | None = None

    def slopes(self, q: Tensor) -> Tensor | None:
        """``alibi_slopes`` as float32 ``[H]`` on the device of ``q`` ``[1, M, H, K]``."""
        if isinstance(self.alibi_slopes, str):
            return published_slopes(q.shape[2], q.device)
        return self.alibi_slopes

    def features(self) -> frozenset[str]:
        """Which of ``FEATURES`` this asks for."""
        slopes, bias = self.alibi_slopes, self.bias
        asked = {
            "window": self.window is not None,
            "soft_cap": self.soft_cap is not None,
            "alibi": slopes is not None,
            "given_alibi": isinstance(slopes, Tensor) and not slopes.requires_grad,
            "learned_alibi": isinstance(slopes, Tensor) and slopes.requires_grad,
            "bias": bias is not None,
            "learned_bias": bias is not None and bias.requires_grad,
            "score_mod": self.score_mod is not None,
        }
        return frozenset(name for name, is_asked in asked.items() if is_asked)


def without_batch(*tensors: Tensor) -> list[Tensor]:
    """``[1, M, ...]`` as ``[M, ...]``: views, whose gradients, unlike an index's, are no copies."""
    return [x.squeeze(0) for x in tensors]


class KernelFunction(Protocol):
    """Computes ``packed_attention`` for arguments that were already checked."""

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        layout: PackedLayout,
        scoring: Scoring,
        block_mask: Any = None,
    ) -> Tensor:
        """Attends.

        Args:
            q: queries ``[1, M, H, K]``, of one of the kernel's dtypes. The numbers of a head lie
                one after another; the other strides are any, as of a view of one projection.
            k: keys ``[1, M, G, K]``, of the dtype of ``q`` and with strides like it; query head h
                reads head ``h * G // H``.
            v: values, like ``k``.
            layout: where each document lies in the row.
            scoring: how a query scores a key.
            block_mask: what ``Kernel.block_mask(layout, scoring.window)`` made for all layers of
                this window; None if nobody made it: the kernel makes its own, or needs none.

        Returns:
            ``[1, M, H, K]``, in the dtype of ``q``; the strides are any.
        """
        ...


def _no_block_mask(layout: PackedLayout, window: int | None) -> None:
    return None


def _lacks_nothing() -> None:
    return None


def _is_there(device_type: str) -> str:
    return "loaded"


def _tuple_of(kind: type) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, tuple) and bool(value) and all(isinstance(v, kind) for v in value)
    )


_NAMES = Rule(
    f"a frozenset of these names: {', '.join(FEATURES)}", lambda v: isinstance(v, frozenset | set)
)
_RULES = {
    "name": Rule(
        "letters, digits, _ and -",
        lambda v: isinstance(v, str) and re.fullmatch(r"[\w-]+", v) is not None,
    ),
    "devices": Rule('a tuple of device types, such as ("cpu",)', _tuple_of(str)),
    "dtypes": Rule("a tuple of dtypes, such as (torch.float32,)", _tuple_of(torch.dtype)),
    "head_dims": Rule(
        "a range of sizes, such as range(8, 129)", lambda v: isinstance(v, range) and len(v) > 0
    ),
    "features": _NAMES,
    "adds_in_any_order": _NAMES,
    "run": Rule("a function", callable),
}
"""What a kernel's fields must be; they come from a user's file."""


@dataclass(frozen=True)
class Kernel:
    """One implementation of packed attention, and what it supports.

    Attributes:
        name: as on the command line.
        description: one line, for logs.
        devices: device types.
        dtypes: of queries, keys and values.
        head_dims: K.
        features: names from ``FEATURES``, in any combination.
        run: the implementation.
        block_mask: makes what ``run`` needs to know of a row beside its layout, once for all
            layers.
        lacks: what this machine has not got that the kernel needs; None if nothing.
        loaded: how it was loaded for a device type, where it lacks nothing; for ``doctor``.
        packages: those it computes with beside torch, as pip names them: another version of one is
            proved anew.
        adds_in_any_order: names from ``features`` whose gradients differ from call to call: it does
            not run them under ``torch.use_deterministic_algorithms(True)``.
        keeps_programs: what it compiles is kept on disk, so another process can compile it. Its
            forward op calls ``before_call`` of ``kernels/awaited.py``.
        slower_than: names of kernels that were faster wherever both were measured (without a bias
            tensor): where one of them is right, ``auto`` does not try this one.

    Raises:
        ValueError: if a field cannot be used; names it.
    """

    name: str
    description: str
    devices: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...]
    head_dims: range
    features: frozenset[str]
    run: KernelFunction
    block_mask: Callable[[PackedLayout, int | None], Any] = _no_block_mask
    lacks: Callable[[], str | None] = _lacks_nothing
    loaded: Callable[[str], str] = _is_there
    packages: tuple[str, ...] = ()
    adds_in_any_order: frozenset[str] = frozenset()
    keeps_programs: bool = False
    slower_than: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field, rule in _RULES.items():
            value = getattr(self, field)
            wrong = [] if rule.holds(value) else [value]
            if rule is _NAMES and not wrong:
                wrong = sorted((name for name in value if name not in FEATURES), key=repr)
                object.__setattr__(self, field, frozenset(value))  # a set has no hash
            if wrong:
                told = shown(" ".join(", ".join(map(repr, wrong)).split()))  # one line
                raise ValueError(f"Kernel.{field} ({told}) must be {rule.text}")

    def unsupported(self, variant: Variant) -> str | None:
        """Why the kernel cannot run ``variant`` here; None if it can."""
        return self.unfit(variant) or self.lacks()

    def unfit(self, variant: Variant) -> str | None:
        """Why the kernel cannot run ``variant``, whatever the machine has; None if it can."""
        if variant.device_type not in self.devices:
            return f"runs on {' and '.join(self.devices)} only"
        if variant.dtype not in self.dtypes:
            names = [str(dtype).removeprefix("torch.") for dtype in (*self.dtypes, variant.dtype)]
            return f"takes {', '.join(names[:-1])}, not {names[-1]}"
        if variant.head_dim not in self.head_dims:
            sizes = self.head_dims
            return f"takes head sizes from {sizes[0]} to {sizes[-1]} in steps of {sizes.step}"
        missing = [
            text for name, text in FEATURES.items() if name in variant.features - self.features
        ]
        if missing:
            return f"has no {' and no '.join(missing)}"
        if torch.are_deterministic_algorithms_enabled():
            for name in FEATURES:
                if name in variant.features & self.adds_in_any_order:
                    return (
                        f"adds up {FEATURES[name]} in any order, which deterministic=true forbids"
                    )
        return None
