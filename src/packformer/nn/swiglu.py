"""Gated feed-forward layer."""

from __future__ import annotations

from importlib.util import find_spec

import torch
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
        return self.w3(gated(self.w12(x)))


def gated(gate_up: Tensor) -> Tensor:
    """``silu(gate) * up`` of ``[..., 2 F]``, gates first."""
    if gate_up.is_cuda and gate_up.dtype != torch.float64 and _HAS_TRITON:
        return _Gated.apply(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


class _Gated(torch.autograd.Function):
    # Inductor's own backward reads the inputs twice, once for each half of what it writes.
    @staticmethod
    def forward(ctx, gate_up):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return _gate_gradient(ctx.saved_tensors[0], grad)


_HAS_TRITON = find_spec("triton") is not None


@torch.library.custom_op("packformer::gate_gradient", mutates_args=(), device_types="cuda")
def _gate_gradient(gate_up: Tensor, grad: Tensor) -> Tensor:
    from packformer.nn.swiglu_triton import gate_gradient

    return gate_gradient(gate_up.contiguous(), grad.contiguous())


@_gate_gradient.register_fake
def _(gate_up: Tensor, grad: Tensor) -> Tensor:
    return gate_up.new_empty(gate_up.shape)
