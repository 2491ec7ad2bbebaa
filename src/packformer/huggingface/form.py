"""What a model must be to have a form in ``transformers``: Llama's, Mistral's or Qwen3's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from packformer.model import GPT, SelfAttention
from packformer.nn import Rotary


@dataclass(frozen=True)
class Form:
    """Sizes and choices of a rotary, pre-norm, SwiGLU decoder whose layers are alike.

    Attributes:
        vocab_size: V.
        max_position: longest document, in tokens.
        num_layers: blocks.
        width: D.
        hidden_width: of the feed-forward layers.
        num_heads: H.
        num_kv_heads: G.
        head_dim: K.
        norm_eps: of every norm.
        base: of the rotary embedding.
        scaling: of its frequencies, see ``packformer.nn.Rotary``; None for none.
        window: tokens a query sees, its own included; None for all.
        qk_norm: whether queries and keys are normalised.
        tie_embeddings: whether the head shares the embedding's weights.
    """

    vocab_size: int
    max_position: int
    num_layers: int
    width: int
    hidden_width: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    base: float
    scaling: Mapping[str, float] | None
    window: int | None
    qk_norm: bool
    tie_embeddings: bool

    @property
    def model_type(self) -> str:
        """The architecture in ``transformers`` that computes the same."""
        if self.qk_norm:
            return "qwen3"
        # Llama's configuration wants a width that the heads divide, whatever the head size.
        return "mistral" if self.window is not None or self.width % self.num_heads else "llama"

    def settings(self) -> dict[str, dict[str, Any]]:
        """The same as settings of a run, by group and name; those of the data are left out."""
        every = asdict(self)
        return {group: {name: every[name] for name in names} for group, names in _SETTINGS.items()}

    def make(self) -> GPT:
        """The model, without memory for its weights."""
        groups = self.settings()
        position = partial(Rotary, **groups["position"])
        with torch.device("meta"):
            model = GPT(
                self.vocab_size,
                self.max_position,
                attention=partial(SelfAttention, **groups["attention"]),
                position=position,
                **groups["model"],
            )
        model.position = position(
            width=self.width,
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            max_position=self.max_position,
        )
        return model


_SETTINGS = {
    "model": (
        *("num_layers", "width", "num_heads", "hidden_width"),
        *("tie_embeddings", "norm_eps"),
    ),
    "attention": ("num_kv_heads", "head_dim", "window", "qk_norm"),
    "position": ("base", "scaling"),
}
