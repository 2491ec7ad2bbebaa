"""A loaded model on the device and in the dtype that a command computes with."""

from __future__ import annotations

import torch

from packformer.attention.kernel import HALF
from packformer.model import GPT


def place(model: GPT, device: str, dtype: torch.dtype) -> str:
    """Moves a model to compute as in training; returns its attention kernels and why, for the log.

    Half precision is autocast's: the weights stay float32.

    Args:
        model: from ``packformer.load``.
        device: ``"cpu"`` or ``"cuda"``.
        dtype: to compute in, see ``computing``.

    Raises:
        ValueError: if no kernel can run a layer there.
    """
    model.to(device=device, dtype=torch.float32 if dtype in HALF else dtype)
    return choose_kernels(model, device, dtype)


def choose_kernels(model: GPT, device: str, dtype: torch.dtype) -> str:
    """Settles a model's kernels anew: those it was trained with may not run here.

    Raises:
        ValueError: if no kernel can run a layer there.
    """
    for layer in model.layers:
        layer.kernel = "auto"
    return model.select_kernel(device, dtype)


def computing(device: str, dtype: torch.dtype) -> torch.autocast:
    """The autocast in which a model that was placed computes."""
    return torch.autocast(device, dtype if dtype in HALF else None, enabled=dtype in HALF)
