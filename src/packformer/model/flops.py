"""How many floating-point operations a training step needs, from the true document lengths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from torch import nn

from packformer.model.gpt import GPT

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_Length = TypeVar("_Length", int, "NDArray[np.int64]")


def causal_pairs(length: _Length) -> _Length:
    """Query-key pairs of a causal document without a window; of an array, those of each length."""
    return length * (length + 1) // 2


def attended_pairs(lengths: Iterable[int], window: int | None = None) -> int:
    """Query-key pairs inside the causal triangles (or bands of ``window`` tokens)."""
    pairs = 0
    for length in lengths:
        reach = length if window is None else min(window, length)
        pairs += causal_pairs(reach) + (length - reach) * reach
    return pairs


def score_products(model: GPT, lengths: Sequence[int]) -> int:
    """Multiply-adds of the scores of all layers, each in its own window: H K per query-key pair.

    Args:
        model: in training; its layers may differ in heads and windows, and in whether they attend
            across documents.
        lengths: of the documents, in tokens.
    """
    sizes: Counter[tuple[int | None, bool]] = Counter()
    for layer in model.layers:
        sizes[layer.window, layer.across_documents] += layer.num_heads * layer.head_dim
    return sum(
        size * attended_pairs([sum(lengths)] if across else lengths, window)
        for (window, across), size in sizes.items()
    )


def matrix_weights(model: nn.Module) -> int:
    """Weights of all linear layers, the head included and the embedding look-up not."""
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))


def product_flops(weights: int, num_tokens: int) -> int:
    """Flops of the matrix products, forward and backward: 6 per weight and token.

    A multiply-add is two flops, and backward costs twice the forward.
    """
    return 6 * weights * num_tokens


def attention_flops(products: int, *, recomputed: bool = False) -> int:
    """Flops of attention, forward and backward: 12 H K per query-key pair of a layer.

    Args:
        products: H K times the query-key pairs, of all layers together, see ``score_products``.
        recomputed: whether to count the scores that a kernel computes anew in its backward, as
            FlashAttention does: 14 H K.
    """
    return (14 if recomputed else 12) * products


def training_flops(model: GPT, num_tokens: int, products: int) -> int:
    """Flops that forward and backward need; recomputation does not count.

    Source: Chowdhery et al. 2022, appendix B; here with the true pairs instead of the row length
    squared.

    Args:
        model: its matrices, the head included and the embedding look-up not.
        num_tokens: documents' tokens, padding left out.
        products: of attention, from ``score_products``.
    """
    return product_flops(matrix_weights(model), num_tokens) + attention_flops(products)
