"""Optimizers, as functions of the model."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from packformer.requirements import ADAMW, MUON
from packformer.settings import check_settings


def adamw(
    model: nn.Module | Iterable[nn.Parameter],
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
        model: whose trainable parameters are optimized; or some parameters, such as those that
            another optimizer does not take.
        fused: one kernel for all parameters.
        learning_rate: peak of the schedule.
        weight_decay: decoupled, per unit of learning rate.
        beta1: decay of the gradient's mean.
        beta2: decay of the squared gradient's mean.
        eps: added to the denominator.

    Raises:
        ValueError: if a number is out of range.
    """
    given = {
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "beta1": beta1,
        "beta2": beta2,
        "eps": eps,
    }
    check_settings("optimizer", ADAMW, given)
    parameters = model.parameters() if isinstance(model, nn.Module) else model
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
    check_settings("optimizer", MUON, {"momentum": momentum})
    matrices, others = hidden_matrices_and_rest(model)
    rest = adamw(
        others,
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


def hidden_matrices_and_rest(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable weights of the linear layers of ``model.blocks``, and all other trainable ones.

    Each once, also where layers share it; in the order of ``model.parameters()``.
    """
    blocks = getattr(model, "blocks", model)
    weights = {id(layer.weight) for layer in blocks.modules() if isinstance(layer, nn.Linear)}
    trainable = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trainable if id(p) in weights]
    return matrices, [p for p in trainable if id(p) not in weights]
