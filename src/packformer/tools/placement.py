"""A loaded model on the device and in the dtype that a command computes with."""

from __future__ import annotations

import torch

from packformer.attention.kernel import HALF
from packformer.model import GPT


def place(model: GPT, device: str, dtype: torch.dtype) -> str:
    """Moves a model, and settles its attention kernels; returns the choice and why.

    Kernels are chosen anew, whatever the model was trained with: that may not run here. Half
    precision is autocast's, as in training: the weights stay float32.

    Args:
        model: from ``packformer.load``.
        device: ``"cpu"`` or ``"cuda"``.
        dtype: to compute in.

    Raises:
        ValueError: if no kernel can run a layer there.
    """
    model.to(device=device, dtype=torch.float32 if dtype in HALF else dtype)
    for layer in model.layers:
        layer.kernel = "auto"
    return model.select_kernel(device, dtype)


def computing(device: str, dtype: torch.dtype) -> torch.autocast:
    """The autocast in which a model that was placed computes."""
    return torch.autocast(device, dtype if dtype in HALF else None, enabled=dtype in HALF)
