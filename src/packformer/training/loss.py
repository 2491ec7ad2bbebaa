"""The loss of a row from its last activations: with all logits at once, or a chunk at a time."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F

from packformer.batch import IGNORE_INDEX

_SHARE_OF_MEMORY = 1 / 8
_BLOCK = 128


def next_token_loss(x_MD: Tensor, head_VD: Tensor, targets_M: Tensor, chunk: int) -> Tensor:
    r"""Summed nats of the counted targets: :math:`-\sum_m \log softmax(W x_m)_{t_m}`.

    With fewer than M tokens at a time, and on a CUDA GPU always, the gradients are computed with
    the loss, as in Liger Kernel (Hsu et al. 2024): logits never exist for more than ``chunk``
    tokens, at the price of adding up the head's gradient in float32, and on a GPU a kernel turns
    them into their gradient in place.

    Args:
        x_MD: ``[M, D]`` activations after the last norm.
        head_VD: ``[V, D]``, the head's weight.
        targets_M: int64 ``[M]``, ``IGNORE_INDEX`` where nothing is predicted.
        chunk: tokens whose logits exist at the same time.

    Returns:
        float32 scalar (float64 for float64).
    """
    device_type = x_MD.device.type
    dtype = x_MD.dtype
    if torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
    whole = chunk >= len(targets_M)
    if whole and not (torch.is_grad_enabled() and _has_kernel(device_type, dtype)):
        return summed_nats(F.linear(x_MD, head_VD), targets_M)
    x_MD, head_VD = x_MD.to(dtype), head_VD.to(dtype)
    if torch.is_grad_enabled():
        if dtype != torch.float16:
            return _LossWithGradients.apply(x_MD, head_VD, targets_M, chunk)
        with torch.autocast(device_type, enabled=False):  # else float32 sums would be float16 ones
            return _LossWithGradients.apply(x_MD, head_VD, targets_M, chunk)
    pairs = zip(x_MD.split(chunk), targets_M.split(chunk), strict=True)
    return torch.stack([summed_nats(F.linear(x, head_VD), t) for x, t in pairs]).sum()


def summed_nats(logits_MV: Tensor, targets_M: Tensor) -> Tensor:
    """The same from logits ``[M, V]``."""
    exact = logits_MV if logits_MV.dtype == torch.float64 else logits_MV.float()
    return F.cross_entropy(exact, targets_M, ignore_index=IGNORE_INDEX, reduction="sum")


class _LossWithGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_MD, head_VD, targets_M, chunk):  # type: ignore[no-untyped-def]
        # Sums of float16 products overflow where the loss is not scaled down yet.
        summing = torch.float32 if x_MD.dtype == torch.float16 else x_MD.dtype
        grad_head_VD, nats, grads_x = None, [], []
        for x, targets in zip(x_MD.split(chunk), targets_M.split(chunk), strict=True):
            nats_here, grad_logits = _nats_and_gradient(F.linear(x, head_VD), targets)
            nats.append(nats_here)
            grads_x.append(grad_logits @ head_VD)
            grad_head = grad_logits.to(summing).mT @ x.to(summing)
            if chunk >= len(targets_M):
                grad_head_VD = grad_head
            elif grad_head_VD is None:
                grad_head_VD = grad_head.to(_exact(x.dtype))
            else:
                grad_head_VD = grad_head_VD + grad_head
        ctx.save_for_backward(torch.cat(grads_x), grad_head_VD)
        ctx.dtype = head_VD.dtype
        return torch.stack(nats).sum()

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return *((grad * saved).to(ctx.dtype) for saved in ctx.saved_tensors), None, None


def _exact(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _nats_and_gradient(logits_MV: Tensor, targets_M: Tensor) -> tuple[Tensor, Tensor]:
    """Summed nats, and their gradient for the logits, which may be overwritten."""
    if _has_kernel(logits_MV.device.type, logits_MV.dtype):
        return _nats_of_each(logits_MV, targets_M).sum(), logits_MV
    logits = logits_MV.to(_exact(logits_MV.dtype))
    log_sums = logits.logsumexp(-1, keepdim=True)
    counted = (targets_M != IGNORE_INDEX)[:, None]
    right = targets_M.where(counted[:, 0], 0)[:, None]  # any other id below 0 is refused
    nats = ((log_sums - logits.gather(1, right)) * counted).sum()
    is_right = torch.arange(logits.shape[1], device=logits.device) == right
    gradient = ((logits - log_sums).exp() - is_right.to(logits.dtype)) * counted
    return nats, gradient.to(logits_MV.dtype)


def _has_kernel(device_type: str, dtype: torch.dtype) -> bool:
    return device_type == "cuda" and dtype != torch.float64 and _HAS_TRITON


_HAS_TRITON = find_spec("triton") is not None


@torch.library.custom_op("packformer::nats_of_each", mutates_args=("logits",), device_types="cuda")
def _nats_of_each(logits: Tensor, targets: Tensor) -> Tensor:
    from packformer.training.loss_triton import nats_of_each

    return nats_of_each(logits, targets)


@_nats_of_each.register_fake
def _(logits: Tensor, targets: Tensor) -> Tensor:
    return torch.empty_like(targets, dtype=torch.float32)


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
