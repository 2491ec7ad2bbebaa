"""The optimizer."""

from __future__ import annotations

import torch
from torch import nn

from packformer.settings import check_number


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
    check_number("optimizer.learning_rate", learning_rate, above=0)
    check_number("optimizer.weight_decay", weight_decay, at_least=0)
    for name, value in (("beta1", beta1), ("beta2", beta2)):
        check_number(f"optimizer.{name}", value, at_least=0)
        if value >= 1:
            raise ValueError(f"optimizer.{name} ({value}) must be below 1")
    check_number("optimizer.eps", eps, above=0)
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(beta1, beta2), eps=eps, fused=fused)
