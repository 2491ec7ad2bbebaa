"""What custom ops of attention kernels share: shapes of their results, and autograd."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch._library.custom_ops import CustomOpDef


def join_forward_and_backward(forward: CustomOpDef, backward: CustomOpDef, tensors: int) -> None:
    """Gives two ops their fakes, and makes ``backward`` the gradient of ``forward``.

    Args:
        forward: of ``q_MHK, k_MGK, v_MGK``, ``tensors`` more and options; returns ``out_MHK``, and
            ``lse_HM`` in float32, the logarithm of each softmax' denominator. Both are contiguous.
        backward: of ``grad_MHK``, q, k, v, ``out_MHK``, ``lse_HM``, the same tensors and options;
            returns the contiguous gradients of q, k and v.
        tensors: how many arguments of ``forward`` lie between ``v_MGK`` and its options. They get
            no gradient, and may be None.
    """
    forward.register_fake(_forward_fake)
    join_gradient(forward, backward, tensors)


def join_gradient(forward: CustomOpDef, backward: CustomOpDef, tensors: int) -> None:
    """``join_forward_and_backward``, for ``lse`` of any shape and dtype: without a fake of it."""
    backward.register_fake(_backward_fake)
    first_option = 3 + tensors

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        (q, k, v, *others), ctx.options = inputs[:first_option], inputs[first_option:]
        ctx.save_for_backward(q, k, v, *output, *others)
        ctx.mark_non_differentiable(output[1])

    def gradients(ctx: Any, grad_MHK: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        of_qkv = backward(grad_MHK.contiguous(), *ctx.saved_tensors, *ctx.options)
        return *of_qkv, *(None for _ in range(tensors + len(ctx.options)))

    forward.register_autograd(gradients, setup_context=setup_context)


def _forward_fake(q_MHK: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    lse_HM = q_MHK.new_empty((q_MHK.shape[1], q_MHK.shape[0]), dtype=torch.float32)
    return q_MHK.new_empty(q_MHK.shape), lse_HM


def _backward_fake(
    grad_MHK: Tensor, q_MHK: Tensor, k_MGK: Tensor, v_MGK: Tensor, *_: Any
) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in (q_MHK, k_MGK, v_MGK))
