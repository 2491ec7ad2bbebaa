"""One call of packed attention, by numbers alone: it can be listed, drawn, printed and repeated."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from packformer.attention.kernel import PUBLISHED, Scoring, Variant
from packformer.attention.layout import PackedLayout
from packformer.nn.position import Slopes, published_slopes

Given = Literal["none", "given", "learned"]
Alibi = Literal["none", "published", "given", "learned"]


class Inputs(NamedTuple):
    """What a call is made with; all random, but the same for the same case and device.

    Attributes:
        q: ``[1, M, H, K]``.
        k: ``[1, M, G, K]``.
        v: ``[1, M, G, K]``.
        grad: of the output, ``[1, M, H, K]``.
        layout: of the row.
        scoring: all options.
        learned: which of ``"slopes"`` and ``"bias"`` have a gradient.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    grad: Tensor
    layout: PackedLayout
    scoring: Scoring
    learned: frozenset[str]

    def changed(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        """The same call with other tensors."""
        q, k, v, grad = (change(x) for x in (self.q, self.k, self.v, self.grad))
        return self._replace(q=q, k=k, v=v, grad=grad)


@dataclass(frozen=True)
class Case:
    """One call of packed attention.

    Attributes:
        dtype: of queries, keys and values: a name such as ``"bfloat16"``.
        head_dim: K.
        num_heads: H.
        num_kv_heads: G.
        lengths: tokens of each document; empty slots may lie anywhere.
        empty_slots: further ones, at the end.
        bound: ``max_seqlen`` of the layout; None for the longest document.
        window: as in ``packed_attention``.
        soft_cap: likewise.
        alibi: ``"none"``, ``"published"`` slopes, or ``"given"`` or ``"learned"`` ones.
        bias: ``"none"``, or a ``"given"`` or ``"learned"`` tensor.
        bias_heads: H, or 1 for one bias of all heads; 0 without a bias.
        score_mod: whether a score function has the last word.
        scale: factor on the usual ``K ** -0.5``.
        qk_size: standard deviation of queries and keys.
        v_size: of values.
        grad_size: of the output's gradient.
        one_projection: queries, keys and values are views of one tensor, as in the model.
        seed: of all random numbers.
    """

    dtype: str
    head_dim: int
    num_heads: int
    num_kv_heads: int
    lengths: tuple[int, ...]
    empty_slots: int = 0
    bound: int | None = None
    window: int | None = None
    soft_cap: float | None = None
    alibi: Alibi = "none"
    bias: Given = "none"
    bias_heads: int = 0
    score_mod: bool = False
    scale: float = 1.0
    qk_size: float = 1.0
    v_size: float = 1.0
    grad_size: float = 1.0
    one_projection: bool = False
    seed: int = 0

    @property
    def num_tokens(self) -> int:
        """M."""
        return sum(self.lengths)

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of queries, keys and values."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    def features(self) -> frozenset[str]:
        """What it asks of a kernel: names from ``FEATURES``."""
        asked = {
            "grouped": self.num_kv_heads != self.num_heads,
            "window": self.window is not None,
            "soft_cap": self.soft_cap is not None,
            "alibi": self.alibi != "none",
            "given_alibi": self.alibi == "given",
            "learned_alibi": self.alibi == "learned",
            "bias": self.bias != "none",
            "learned_bias": self.bias == "learned",
            "score_mod": self.score_mod,
        }
        return frozenset(name for name, is_asked in asked.items() if is_asked)

    def variant(self, device_type: str) -> Variant:
        """What decides which kernels can run it."""
        return Variant(device_type, self.torch_dtype, self.head_dim, self.features())

    def inputs(self, device_type: str) -> Inputs:
        """The tensors and options of the call."""
        generator = torch.Generator(device_type).manual_seed(self.seed)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device=device_type)

        m, heads, groups = self.num_tokens, self.num_heads, self.num_kv_heads
        sizes = [self.qk_size] * (heads + groups) + [self.v_size] * groups
        qkv = random(1, m, heads + 2 * groups, self.head_dim)
        qkv = (qkv * qkv.new_tensor(sizes)[:, None]).to(self.torch_dtype)
        parts = qkv.split([heads, groups, groups], dim=2)
        q, k, v = parts if self.one_projection else (x.contiguous() for x in parts)
        grad = (self.grad_size * random(1, m, heads, self.head_dim)).to(self.torch_dtype)
        layout = PackedLayout.from_lengths(
            self.lengths, num_slots=len(self.lengths) + self.empty_slots, max_seqlen=self.bound
        )
        bias = random(self.bias_heads, m, m) if self.bias != "none" else None
        scoring = Scoring(
            scale=self.scale * self.head_dim**-0.5,
            window=self.window,
            soft_cap=self.soft_cap,
            alibi_slopes=self._slopes(device_type),
            bias=bias,
            score_mod=half_of_distant if self.score_mod else None,
        )
        options = {"slopes": self.alibi, "bias": self.bias}
        learned = frozenset(name for name, how in options.items() if how == "learned")
        return Inputs(q, k, v, grad, layout.to(device_type), scoring, learned)

    def with_room(self) -> Case:
        """With a bound that its documents keep."""
        if self.bound is None or self.bound >= max(self.lengths):
            return self
        return replace(self, bound=max(self.lengths))

    def _slopes(self, device_type: str) -> Slopes | None:
        if self.alibi in ("none", "published"):
            return PUBLISHED if self.alibi == "published" else None
        return published_slopes(self.num_heads, device_type).flip(0)  # of other heads

    def to_json(self) -> str:
        """One line that ``from_json`` reads; what has its default is left out."""
        defaults = {field.name: field.default for field in fields(self)}
        shown = {name: value for name, value in asdict(self).items() if value != defaults[name]}
        return json.dumps(shown)

    @classmethod
    def from_json(cls, text: str) -> Case:
        """The case that ``to_json`` wrote.

        Raises:
            ValueError: if it is none; names what is wrong.
        """
        try:
            found: dict[str, Any] = json.loads(text)
            case = cls(**{**found, "lengths": tuple(found["lengths"])})
            case._check()
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(f"case ({text}) cannot be read: {error}") from error
        return case

    def _check(self) -> None:
        for name, allowed in (("alibi", get_args(Alibi)), ("bias", get_args(Given))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} ({getattr(self, name)}) must be one of {allowed}")
        if not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise ValueError(f"dtype ({self.dtype}) must be a floating dtype of torch")
        if self.num_tokens < 1 or min(self.head_dim, self.num_heads, self.num_kv_heads) < 1:
            raise ValueError("tokens, heads and head size must be at least 1")


def half_of_distant(
    score: Tensor, batch: Tensor, head: Tensor, q_index: Tensor, kv_index: Tensor
) -> Tensor:
    """The score function of all cases: halves the scores of far keys, another reach per head."""
    return torch.where(q_index - kv_index > 10 * head, score * 0.5, score)
