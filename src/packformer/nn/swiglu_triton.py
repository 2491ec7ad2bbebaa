"""A Triton kernel for the gradient of SwiGLU's gate."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024


@triton.jit
def _gate_gradient(gate_up, grad, out, HIDDEN: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < HIDDEN
    here = row * 2 * HIDDEN + column
    gate = tl.load(gate_up + here, mask=inside).to(tl.float32)
    up = tl.load(gate_up + here + HIDDEN, mask=inside).to(tl.float32)
    g = tl.load(grad + row * HIDDEN + column, mask=inside).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    silu = gate * sigmoid
    kind = out.dtype.element_ty
    tl.store(out + here, (g * up * (sigmoid + silu - silu * sigmoid)).to(kind), mask=inside)
    tl.store(out + here + HIDDEN, (g * silu).to(kind), mask=inside)


def gate_gradient(gate_up: Tensor, grad: Tensor) -> Tensor:
    """Gradient of ``silu(gate) * up`` for ``gate_up``; reads and writes each number once.

    Args:
        gate_up: bfloat16, float16 or float32 ``[..., 2 F]``, dense: gates, then what they let by.
        grad: the same dtype, ``[..., F]``, dense.
    """
    out = torch.empty_like(gate_up)
    hidden_width = grad.shape[-1]
    rows = grad.numel() // hidden_width
    block = min(_BLOCK, triton.next_power_of_2(hidden_width))
    _gate_gradient[(rows, triton.cdiv(hidden_width, block))](
        gate_up, grad, out, HIDDEN=hidden_width, BLOCK=block
    )
    return out
