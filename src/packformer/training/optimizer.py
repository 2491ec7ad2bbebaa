"""Optimizers, as functions of the model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import nn

from packformer.requirements import check_adamw, check_muon


def adamw(
    model: nn.Module,
    *,
    fused: bool,
    learning_rate: float = 3e-3,
    weight_decay: float = 0.1,
    beta1: float = 0.9,
    beta2: float = 0.95,
    eps: float = 1e-8,
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) that decays matrices and leaves norms and biases alone.

    Args:
        model: whose trainable parameters are optimized.
        fused: one kernel for all parameters.
        learning_rate: peak of the schedule.
        weight_decay: decoupled, per unit of learning rate.
        beta1: decay of the gradient's mean.
        beta2: decay of the squared gradient's mean.
        eps: added to the denominator.

    Raises:
        ValueError: if a number is out of range.
    """
    return adamw_for(
        model.parameters(),
        fused=fused,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
    )


def adamw_for(
    parameters: Iterable[nn.Parameter],
    *,
    fused: bool,
    learning_rate: float = 3e-3,
    weight_decay: float = 0.1,
    beta1: float = 0.9,
    beta2: float = 0.95,
    eps: float = 1e-8,
) -> torch.optim.AdamW:
    """The same of some parameters, such as those that another optimizer does not take."""
    check_adamw(
        learning_rate=learning_rate, weight_decay=weight_decay, beta1=beta1, beta2=beta2, eps=eps
    )
    trainable = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(beta1, beta2), eps=eps, fused=fused)


def muon(
    model: nn.Module,
    *,
    fused: bool,
    learning_rate: float = 3e-3,
    weight_decay: float = 0.1,
    momentum: float = 0.95,
    beta1: float = 0.9,
    beta2: float = 0.95,
    eps: float = 1e-8,
) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the matrices of the blocks, AdamW for all else.

    Muon's updates are scaled to the size of AdamW's (Liu et al. 2025), so that both take the same
    learning rate and weight decay. A matrix is orthogonalised as it is stored: queries, keys and
    values of a layer are one.

    Args:
        model: whose trainable parameters are optimized.
        fused: AdamW's step is one kernel.
        learning_rate: peak of the schedule.
        weight_decay: decoupled, per unit of learning rate.
        momentum: of Muon.
        beta1: of AdamW, see there.
        beta2: of AdamW.
        eps: of AdamW.

    Raises:
        ValueError: if a number is out of range.
    """
    check_muon(momentum=momentum)
    matrices = hidden_matrices(model)
    taken = {id(p) for p in matrices}
    rest = adamw_for(
        [p for p in model.parameters() if id(p) not in taken],
        fused=fused,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
    )
    hidden = torch.optim.Muon(
        matrices,
        lr=learning_rate,
        weight_decay=weight_decay,
        momentum=momentum,
        adjust_lr_fn="match_rms_adamw",
    )
    return [hidden, rest]


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Trainable weights of the linear layers of ``model.blocks``."""
    blocks = getattr(model, "blocks", model)
    linear = [layer for layer in blocks.modules() if isinstance(layer, nn.Linear)]
    return [p for layer in linear if (p := cast(nn.Parameter, layer.weight)).requires_grad]
