"""Gated feed-forward layer."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class SwiGLU(nn.Module):
    r"""``w3(silu(gate) * up)`` with ``gate, up = split(w12(x))`` (Shazeer 2020).

    Parameters are named and laid out as in ``xformers.ops.SwiGLU`` with ``_pack_weights=True``,
    whose forward is plain eager code that breaks compiled graphs. In Hugging Face's Llama the first
    half of ``w12`` is ``gate_proj``, the second ``up_proj``, and ``w3`` is ``down_proj``.

    Args:
        width: D, size of input and output.
        hidden_width: size of the gated representation.
    """

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(width, 2 * hidden_width, bias=False)
        self.w3 = nn.Linear(hidden_width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * up)
