"""The loss of a row from its last activations: with all logits at once, or a chunk at a time."""

from __future__ import annotations

from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from packformer.batch import IGNORE_INDEX

_SHARE_OF_MEMORY = 1 / 8
_BLOCK = 128


class RowLoss(NamedTuple):
    """Sums over the counted tokens of a row; scalars in float32, in float64 for float64.

    Attributes:
        loss: to be minimised, ``nats + z_loss``; the only one with a graph.
        nats: the cross-entropy.
        z_loss: its part that keeps logits small.
    """

    loss: Tensor
    nats: Tensor
    z_loss: Tensor


def next_token_loss(
    x_MD: Tensor, head_VD: Tensor, targets_M: Tensor, chunk: int, z_loss: float = 0.0
) -> RowLoss:
    r"""The loss of the counted targets: :math:`\sum_m \log Z_m - (W x_m)_{t_m} + c \log^2 Z_m`.

    :math:`Z_m = \sum_v \exp (W x_m)_v`. The last term, z-loss with the coefficient c, draws
    :math:`\log Z` towards 0 (Chowdhery et al. 2022).

    With fewer than M tokens at a time, and on a CUDA GPU always, the gradients are computed with
    the loss, as in Liger Kernel (Hsu et al. 2024): logits never exist for more than ``chunk``
    tokens, at the price of adding up the head's gradient in float32, and on a GPU a kernel turns
    them into their gradient in place.

    Args:
        x_MD: ``[M, D]`` activations after the last norm.
        head_VD: ``[V, D]``, the head's weight.
        targets_M: int64 ``[M]``, ``IGNORE_INDEX`` where nothing is predicted.
        chunk: tokens whose logits exist at the same time.
        z_loss: c.
    """
    device_type = x_MD.device.type
    dtype = x_MD.dtype
    if torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
    whole = chunk >= len(targets_M)
    if whole and not (torch.is_grad_enabled() and _has_kernel(device_type, dtype)):
        return _of_logits(F.linear(x_MD, head_VD), targets_M, z_loss)
    x_MD, head_VD = x_MD.to(dtype), head_VD.to(dtype)
    if torch.is_grad_enabled():
        if dtype != torch.float16:
            sums = _LossWithGradients.apply(x_MD, head_VD, targets_M, chunk, z_loss)
        else:
            with torch.autocast(device_type, enabled=False):  # or float32 sums would be float16
                sums = _LossWithGradients.apply(x_MD, head_VD, targets_M, chunk, z_loss)
        return RowLoss(sums[0], *sums.detach()[1:])
    pairs = zip(x_MD.split(chunk), targets_M.split(chunk), strict=True)
    parts = [_of_logits(F.linear(x, head_VD), targets, z_loss) for x, targets in pairs]
    return RowLoss(*(torch.stack(sums).sum() for sums in zip(*parts, strict=True)))


def summed_nats(logits_MV: Tensor, targets_M: Tensor) -> Tensor:
    """Cross-entropy of the counted targets, from logits ``[M, V]``; float32 or float64 scalar."""
    exact = logits_MV.to(_exact(logits_MV.dtype))
    return F.cross_entropy(exact, targets_M, ignore_index=IGNORE_INDEX, reduction="sum")


def _of_logits(logits_MV: Tensor, targets_M: Tensor, z_loss: float) -> RowLoss:
    nats = summed_nats(logits_MV, targets_M)
    if not z_loss:
        return RowLoss(nats, nats.detach(), torch.zeros_like(nats))
    log_sums_M = logits_MV.to(nats.dtype).logsumexp(-1)
    z = z_loss * (log_sums_M.square() * (targets_M != IGNORE_INDEX)).sum()
    return RowLoss(nats + z, nats.detach(), z.detach())


class _LossWithGradients(torch.autograd.Function):
    """Sums of ``RowLoss`` in one tensor ``[3]``, of which the first has the gradient.

    Compiled by torch 2.11, a function whose second output has no gradient is an error.
    """

    @staticmethod
    def forward(ctx, x_MD, head_VD, targets_M, chunk, z_loss):  # type: ignore[no-untyped-def]
        # Sums of float16 products overflow where the loss is not scaled down yet.
        summing = torch.float32 if x_MD.dtype == torch.float16 else x_MD.dtype
        grad_head_VD, sums, grads_x = None, [], []
        for x, targets in zip(x_MD.split(chunk), targets_M.split(chunk), strict=True):
            sums_here, grad_logits = _sums_and_gradient(F.linear(x, head_VD), targets, z_loss)
            sums.append(sums_here)
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
        nats, squares = torch.stack(sums).sum(0)
        z = z_loss * squares
        return torch.stack([nats + z, nats, z])

    @staticmethod
    def backward(ctx, grads):  # type: ignore[no-untyped-def]
        loss = grads[0]
        return *((loss * saved).to(ctx.dtype) for saved in ctx.saved_tensors), None, None, None


def _exact(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _sums_and_gradient(
    logits_MV: Tensor, targets_M: Tensor, z_loss: float
) -> tuple[Tensor, Tensor]:
    """Nats and squares of ``log Z``, summed ``[2]``; the loss's gradient for the logits, which may
    be overwritten."""
    if _has_kernel(logits_MV.device.type, logits_MV.dtype):
        nats_M, log_sums_M = _nats_of_each(logits_MV, targets_M, z_loss)
        return torch.stack([nats_M.sum(), log_sums_M.square().sum()]), logits_MV
    logits = logits_MV.to(_exact(logits_MV.dtype))
    log_sums = logits.logsumexp(-1, keepdim=True)
    counted = (targets_M != IGNORE_INDEX)[:, None]
    right = targets_M.where(counted[:, 0], 0)[:, None]  # any other id below 0 is refused
    nats = ((log_sums - logits.gather(1, right)) * counted).sum()
    squares = (log_sums.square() * counted).sum()
    is_right = torch.arange(logits.shape[1], device=logits.device) == right
    grown = (logits - log_sums).exp() * (1 + 2 * z_loss * log_sums)
    gradient = (grown - is_right.to(logits.dtype)) * counted
    return torch.stack([nats, squares]), gradient.to(logits_MV.dtype)


def _has_kernel(device_type: str, dtype: torch.dtype) -> bool:
    return device_type == "cuda" and dtype != torch.float64 and _HAS_TRITON


_HAS_TRITON = find_spec("triton") is not None


@torch.library.custom_op("packformer::nats_of_each", mutates_args=("logits",), device_types="cuda")
def _nats_of_each(logits: Tensor, targets: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
    from packformer.training.loss_triton import nats_of_each

    return nats_of_each(logits, targets, z_loss)


@_nats_of_each.register_fake
def _(logits: Tensor, targets: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
    each = torch.empty_like(targets, dtype=torch.float32)
    return each, torch.empty_like(each)


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
