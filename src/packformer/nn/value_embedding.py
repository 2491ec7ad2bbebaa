"""Values that a token has in a layer wherever it stands, mixed into those of attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

GATE_CHANNELS = 32
"""Of a layer's input, which the gate reads: as in nanochat."""


class ValueEmbedding(nn.Module):
    r"""``v + 2 sigmoid(W x[:C]) * table[token]``, with one gate for each key/value head.

    Zhou et al. 2024 give each layer the values of the first one, which know little but their
    token. Modded-nanoGPT looks such values up in tables instead, and nanochat, whose gate this is,
    has a table of its own in a layer. With W = 0, as it begins, every gate is 1.

    Args:
        vocab_size: V.
        width: D, of the layer's input.
        num_kv_heads: G.
        head_dim: K.

    Attributes:
        table: one row of G K numbers for each token id.
        gate: W, of the first C channels of the input: 32, or D where that is less.
    """

    def __init__(self, vocab_size: int, width: int, num_kv_heads: int, head_dim: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab_size, num_kv_heads * head_dim)
        self.gate = Gate(min(GATE_CHANNELS, width), num_kv_heads, bias=False)

    def forward(self, v_BMGK: Tensor, x_BMD: Tensor, tokens_BM: Tensor) -> Tensor:
        """Values ``[1, M, G, K]``, in the dtype of ``v_BMGK``.

        Args:
            v_BMGK: what the layer projects its input to.
            x_BMD: the layer's normed input.
            tokens_BM: token ids, int64 ``[1, M]``.
        """
        gate_BMG = 2 * torch.sigmoid(self.gate(x_BMD[..., : self.gate.in_features]))
        token_BMGK = self.table(tokens_BM).to(v_BMGK.dtype).view_as(v_BMGK)
        return v_BMGK + gate_BMG.to(v_BMGK.dtype).unsqueeze(-1) * token_BMGK


class Gate(nn.Linear):
    """A class of its own, because such small products stay out of float8."""
