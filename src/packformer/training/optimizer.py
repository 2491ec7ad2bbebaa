"""The optimizer."""

from __future__ import annotations

import torch
from torch import nn


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
        ValueError: if the learning rate is not positive.
    """
    if learning_rate <= 0:
        raise ValueError(f"learning_rate ({learning_rate}) must be positive")
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(beta1, beta2), eps=eps, fused=fused)
