"""What other libraries have of our model, and what they have not."""

from __future__ import annotations

from dataclasses import dataclass

from packformer.model import GPT
from packformer.nn import Position, RMSNorm, Rotary

_BASE = 10_000.0  # of the rotary positions of those libraries


@dataclass(frozen=True)
class Shape:
    """Sizes that all share.

    Attributes:
        vocab_size: V.
        width: D.
        hidden_width: of the feed-forward layers.
        num_layers: blocks.
        num_heads: H.
        num_kv_heads: G.
        head_dim: K.
        longest: document, in tokens.
        tied: the head shares the embedding's weights.
        across_documents: documents of a row attend to each other.
    """

    vocab_size: int
    width: int
    hidden_width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    longest: int
    tied: bool
    across_documents: bool = False


def shape_of(model: GPT) -> Shape:
    """The sizes of ``model``.

    Raises:
        ValueError: if its layers differ, which those of other libraries do not.
    """
    first = model.layers[0]
    kinds = {
        (
            *(layer.num_heads, layer.num_kv_heads, layer.window, layer.soft_cap, layer.score_mod),
            *(type(layer.q_norm), layer.value_embeddings),
            *(layer.across_documents, layer.restart_positions),
        )
        for layer in model.layers
    }
    if len(kinds) > 1 or len(model.positions) > 1:
        raise ValueError("the layers differ, those of other libraries do not: use layers=alike")
    return Shape(
        vocab_size=model.vocab_size,
        width=model.width,
        hidden_width=model.hidden_width,
        num_layers=len(model.blocks),
        num_heads=first.num_heads,
        num_kv_heads=first.num_kv_heads,
        head_dim=first.head_dim,
        longest=model.max_position,
        tied=model.head.weight is model.embedding.weight,
        across_documents=first.across_documents,
    )


def differences(model: GPT) -> str:
    """How a model of ``shape_of(model)`` with plain rotary attention differs; empty if it is the
    same: ``without the window of 128, rotary instead of ALiBi``."""
    first = model.layers[0]
    # Sequences of other libraries are as long as our positions reach, and counted through.
    restarts = first.across_documents and first.restart_positions
    lacks = {
        f"the window of {first.window}": first.window is not None,
        f"the soft-cap of {first.soft_cap}": first.soft_cap is not None,
        "the score function": first.score_mod is not None,
        "norms of queries and keys": isinstance(first.q_norm, RMSNorm),
        "value embeddings": first.value_embeddings,
        "positions that restart in every document": restarts,
    }
    missing = " and ".join(name for name, is_ours in lacks.items() if is_ours)
    told = [f"without {missing}"] if missing else []
    if other := _other_position(model.position):
        told.append(f"plain rotary instead of {other}")
    if restarts:
        told.append(f"attending across {model.max_position:,} tokens instead of the row")
    return ", ".join(told)


def _other_position(scheme: Position) -> str:
    """The scheme's name, unless it is the rotary one of other libraries."""
    if type(scheme) is not Rotary:
        return type(scheme).__name__
    if scheme.scaling is not None:
        return "scaled rotary"
    return "" if scheme.base == _BASE else f"rotary of base {scheme.base:g}"
