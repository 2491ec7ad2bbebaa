"""The loss of a row, from the last activations: all logits at once, or a few at a time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from packformer.batch import IGNORE_INDEX

_SHARE_OF_MEMORY = 1 / 8
_BLOCK = 128


def next_token_loss(x_MD: Tensor, head_VD: Tensor, targets_M: Tensor, chunk: int) -> Tensor:
    r"""Summed nats of the counted targets: :math:`-\sum_m \log softmax(W x_m)_{t_m}`.

    With fewer than M tokens at a time the gradients are computed together with the loss, as in
    Liger Kernel (Hsu et al. 2024): logits never exist for more than ``chunk`` tokens, at the price
    of adding up the head's gradient in float32.

    Args:
        x_MD: ``[M, D]`` activations after the last norm.
        head_VD: ``[V, D]``, the head's weight.
        targets_M: int64 ``[M]``, ``IGNORE_INDEX`` where nothing is predicted.
        chunk: tokens whose logits exist at the same time.

    Returns:
        float32 scalar (float64 for float64).
    """
    if chunk >= len(targets_M):
        return summed_nats(F.linear(x_MD, head_VD), targets_M)
    device_type = x_MD.device.type
    dtype = x_MD.dtype
    if torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
    x_MD, head_VD = x_MD.to(dtype), head_VD.to(dtype)
    if torch.is_grad_enabled():
        return _ChunkedLoss.apply(x_MD, head_VD, targets_M, chunk)
    pairs = zip(x_MD.split(chunk), targets_M.split(chunk), strict=True)
    return torch.stack([summed_nats(F.linear(x, head_VD), t) for x, t in pairs]).sum()


def summed_nats(logits_MV: Tensor, targets_M: Tensor) -> Tensor:
    """The same from logits ``[M, V]``."""
    exact = logits_MV if logits_MV.dtype == torch.float64 else logits_MV.float()
    return F.cross_entropy(exact, targets_M, ignore_index=IGNORE_INDEX, reduction="sum")


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_MD, head_VD, targets_M, chunk):  # type: ignore[no-untyped-def]
        exact = torch.float64 if x_MD.dtype == torch.float64 else torch.float32
        grad_head_VD = torch.zeros_like(head_VD, dtype=exact)
        nats, grads_x = [], []
        for x, targets in zip(x_MD.split(chunk), targets_M.split(chunk), strict=True):
            logits = F.linear(x, head_VD).to(exact)
            log_sums = logits.logsumexp(-1, keepdim=True)
            counted = (targets != IGNORE_INDEX)[:, None]
            right = targets.clamp(min=0)[:, None]
            nats.append(((log_sums - logits.gather(1, right)) * counted).sum())
            is_right = torch.arange(len(head_VD), device=x.device) == right
            grad_logits = (((logits - log_sums).exp() - is_right.to(exact)) * counted).to(x.dtype)
            grads_x.append(grad_logits @ head_VD)
            grad_head_VD += grad_logits.mT @ x
        ctx.save_for_backward(torch.cat(grads_x), grad_head_VD.to(head_VD.dtype))
        return torch.stack(nats).sum()

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return *((grad * saved).to(saved.dtype) for saved in ctx.saved_tensors), None, None


def chunk_that_fits(
    num_tokens: int, vocab_size: int, bytes_per_logit: int, memory_bytes: int
) -> int:
    """Tokens whose logits may exist at the same time: all, if these and their gradient fit.

    They fit in an eighth of the memory.

    Args:
        num_tokens: M, of the row.
        vocab_size: V.
        bytes_per_logit: of the dtype the head computes in.
        memory_bytes: of the device.

    Returns:
        ``num_tokens``, or fewer, a multiple of 128.
    """
    most = int(memory_bytes * _SHARE_OF_MEMORY / (2 * vocab_size * bytes_per_logit))
    if num_tokens <= most:
        return num_tokens
    return max(_BLOCK, most // _BLOCK * _BLOCK)
