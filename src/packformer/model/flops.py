"""How many floating-point operations a training step needs, from the true document lengths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from torch import nn

from packformer.model.gpt import GPT


def attended_pairs(lengths: Iterable[int], window: int | None = None) -> int:
    """Query-key pairs inside the causal triangles (or bands of ``window`` tokens)."""
    pairs = 0
    for length in lengths:
        reach = length if window is None else min(window, length)
        pairs += reach * (reach + 1) // 2 + (length - reach) * reach
    return pairs


def pairs_of_layers(model: GPT, lengths: Sequence[int]) -> int:
    """Query-key pairs of all layers together, each inside its own window."""
    windows = Counter(layer.window for layer in model.layers)
    return sum(count * attended_pairs(lengths, window) for window, count in windows.items())


def matrix_weights(model: nn.Module) -> int:
    """Weights of all linear layers, the head included and the embedding look-up not."""
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))


def product_flops(weights: int, num_tokens: int) -> int:
    """Flops of the matrix products, forward and backward: 6 per weight and token.

    A multiply-add is two flops, and backward costs twice the forward.
    """
    return 6 * weights * num_tokens


def attention_flops(width: int, pairs: int, *, recomputed: bool = False) -> int:
    """Flops of attention, forward and backward: 12 H K per query-key pair of a layer.

    Args:
        width: H K, heads times head size.
        pairs: of all layers together.
        recomputed: whether to count the scores that a kernel computes anew in its backward, as
            FlashAttention does: 14 H K.
    """
    return (14 if recomputed else 12) * width * pairs


def training_flops(model: GPT, num_tokens: int, pairs: int) -> int:
    """Flops that forward and backward need; recomputation does not count.

    Source: Chowdhery et al. 2022, appendix B; here with the true pairs instead of the row length
    squared.

    Args:
        model: its matrices, the head included and the embedding look-up not.
        num_tokens: documents' tokens, padding left out.
        pairs: from ``pairs_of_layers``.
    """
    attention = attention_flops(model.attention_width, pairs)
    return product_flops(matrix_weights(model), num_tokens) + attention
