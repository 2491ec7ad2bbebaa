"""One transformer block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from packformer.attention import PackedLayout
from packformer.model.self_attention import SelfAttention
from packformer.nn import Located, Position, RMSNorm, SwiGLU

ACTIVATION_CHECKPOINTING = ("none", "selective", "full")


class Block(nn.Module):
    """Pre-norm residual block: ``x + attention(norm(x))``, then ``x + swiglu(norm(x))``.

    Args:
        width: D.
        hidden_width: of the feed-forward layer.
        attention: the attention layer.
        activation_checkpointing: what the backward computes again instead of keeping it (Chen et
            al. 2016): ``"none"``; ``"selective"``, the feed-forward layer, which holds more than
            half of the activations and costs about a seventh of a step; ``"full"``, the block,
            about a third.

    Raises:
        ValueError: if ``activation_checkpointing`` is none of these.
    """

    def __init__(
        self,
        width: int,
        hidden_width: int,
        attention: SelfAttention,
        activation_checkpointing: str = "none",
    ) -> None:
        super().__init__()
        if activation_checkpointing not in ACTIVATION_CHECKPOINTING:
            raise ValueError(
                f"activation_checkpointing ({activation_checkpointing!r}) must be one of "
                f"{', '.join(ACTIVATION_CHECKPOINTING)}"
            )
        self.activation_checkpointing = activation_checkpointing
        self.attention_norm = RMSNorm(width, eps=1e-5)
        self.attention = attention
        self.mlp_norm = RMSNorm(width, eps=1e-5)
        self.mlp = SwiGLU(width, hidden_width)

    def forward(
        self,
        x_BMD: Tensor,
        layout: PackedLayout,
        position: Position,
        located: Located,
        block_mask: Any,
        tokens_BM: Tensor | None = None,
    ) -> Tensor:
        # Not None only for layers that ask for them: others of the user's own need not take them.
        asked_for = () if tokens_BM is None else (tokens_BM,)

        def attend(x_BMD: Tensor) -> Tensor:
            normed = self.attention_norm(x_BMD)
            return x_BMD + self.attention(normed, layout, position, located, block_mask, *asked_for)

        def feed_forward(x_BMD: Tensor) -> Tensor:
            return x_BMD + self.mlp(self.mlp_norm(x_BMD))

        mode = self.activation_checkpointing if self.training else "none"
        if mode == "full":
            return _recomputed(lambda x_BMD: feed_forward(attend(x_BMD)), x_BMD)
        x_BMD = attend(x_BMD)
        return _recomputed(feed_forward, x_BMD) if mode == "selective" else feed_forward(x_BMD)


def _recomputed(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    # Nothing in a block is random.
    return checkpoint(function, x, use_reentrant=False, preserve_rng_state=False)
