"""How many floating-point operations a training step needs, from the true document lengths."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from packformer.model.gpt import GPT


def attended_pairs(lengths: Iterable[int], window: int | None = None) -> int:
    """Query-key pairs inside the causal triangles (or bands of ``window`` tokens)."""
    pairs = 0
    for length in lengths:
        reach = length if window is None else min(window, length)
        pairs += reach * (reach + 1) // 2 + (length - reach) * reach
    return pairs


def matrix_weights(model: nn.Module) -> int:
    """Weights of all linear layers, the head included and the embedding look-up not."""
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))


def training_flops(model: GPT, num_tokens: int, pairs: int) -> int:
    """Flops of forward and backward: 6 per matrix weight and token, 12 D per layer and pair.

    A multiply-add is two flops; backward costs twice the forward; recomputation does not count
    (Chowdhery et al. 2022, appendix B; here with the true pairs instead of the row length squared).

    Args:
        model: its matrices, the head included and the embedding look-up not.
        num_tokens: documents' tokens, padding left out.
        pairs: from ``attended_pairs``, the same for each layer.
    """
    return 6 * matrix_weights(model) * num_tokens + 12 * model.width * len(model.blocks) * pairs
