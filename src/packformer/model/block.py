"""One transformer block."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from packformer.attention import PackedLayout
from packformer.model.self_attention import SelfAttention
from packformer.nn import Position, SwiGLU


class Block(nn.Module):
    """Pre-norm residual block: ``x + attention(norm(x))``, then ``x + swiglu(norm(x))``."""

    def __init__(self, width: int, hidden_width: int, attention: SelfAttention) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(width, eps=1e-5)
        self.attention = attention
        self.mlp_norm = nn.RMSNorm(width, eps=1e-5)
        self.mlp = SwiGLU(width, hidden_width)

    def forward(
        self,
        x_BMD: Tensor,
        layout: PackedLayout,
        position: Position,
        rotation: Any,
        prepared: Any,
    ) -> Tensor:
        x_BMD = x_BMD + self.attention(
            self.attention_norm(x_BMD), layout, position, rotation, prepared
        )
        return x_BMD + self.mlp(self.mlp_norm(x_BMD))
