"""Clipping by the norm of all gradients, whatever the optimizer."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from packformer.training.chained import members_of

_EPS = 1e-6


def divides_gradients(optimizer: Optimizer) -> bool:
    """Whether the step itself divides gradients by ``optimizer.grad_scale``.

    Torch's optimizers do if they are built with ``fused=True``, and say so. All others ignore the
    attribute or refuse it.
    """
    declared = getattr(optimizer, "_step_supports_amp_scaling", False)
    return declared and all(group.get("fused") for group in optimizer.param_groups)


def clip_gradients(
    optimizer: Optimizer, parameters: Iterable[nn.Parameter], max_norm: float | None
) -> Tensor:
    """Scales the gradients down so that their 2-norm is at most ``max_norm``.

    A step that divides gradients itself is told by how much, because it reads them anyway.
    Lightning's own clipping refuses such optimizers under mixed precision.

    Args:
        optimizer: that will use the gradients next, or several, chained: the norm is that of all.
        parameters: of the model.
        max_norm: None leaves the gradients as they are.

    Returns:
        The norm before, a scalar on the gradients' device.
    """
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if isinstance(norm, DTensor):  # of the shards of this rank
        norm = norm.full_tensor()
    if max_norm is None:
        return norm
    divisor = None
    for member in members_of(optimizer):
        if divides_gradients(member):
            if divisor is None:
                divisor = ((norm.float() + _EPS) / max_norm).clamp(min=1.0)
            member.grad_scale = divisor  # type: ignore[attr-defined]
        else:
            own = [p for group in member.param_groups for p in group["params"]]
            nn.utils.clip_grads_with_norm_(own, max_norm, norm)
    return norm
