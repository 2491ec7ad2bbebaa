"""What the layers of a model see of a row: its documents apart, or the row as one document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from packformer.attention import PackedLayout
from packformer.model.self_attention import SelfAttention
from packformer.nn import Position


@dataclass(frozen=True)
class RowView:
    """Of one layer.

    Attributes:
        layout: what attention stops at.
        position_ids: int64 ``[M]``, what the layer's position scheme counts.
        counts_through: whether these count through the row.
    """

    layout: PackedLayout
    position_ids: Tensor
    counts_through: bool


def views_of(
    layers: Sequence[SelfAttention], layout: PackedLayout, *, training: bool
) -> list[RowView]:
    """What each layer sees, bottom up; equal layers share their layout.

    Only in training do layers attend across documents. A document is evaluated, and continued, by
    itself, so losses of models that attend across documents and of others compare.

    Args:
        layers: of the model.
        layout: where each document lies in the row.
        training: whether the model is.
    """
    apart = RowView(layout, layout.position_ids, False)
    if not training or not any(layer.across_documents for layer in layers):
        return [apart] * len(layers)
    row = layout.as_one_document()
    restarting = RowView(row, layout.position_ids, False)
    counting = RowView(row, row.position_ids, True)
    return [
        (restarting if layer.restart_positions else counting) if layer.across_documents else apart
        for layer in layers
    ]


def check_counts_alike(
    layers: Sequence[SelfAttention], schemes: Sequence[Position], scheme_of_layer: Sequence[int]
) -> None:
    """Refuses layers that count differently, of a scheme that adds to the embeddings: once for all.

    Raises:
        ValueError: naming the scheme.
    """
    for number, scheme in enumerate(schemes):
        of_scheme = [layer for layer, n in zip(layers, scheme_of_layer, strict=True) if n == number]
        if (
            type(scheme).embed is not Position.embed
            and len({layer.restart_positions for layer in of_scheme}) > 1
        ):
            raise ValueError(
                f"attention.restart_positions must be the same in all layers of "
                f"{type(scheme).__name__}, which adds positions to the embeddings once"
            )
