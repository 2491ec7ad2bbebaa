"""Arguments for the device and dtype that a command computes with."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

DTYPES = ("bfloat16", "float16", "float32", "float64")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Adds ``--device`` and ``--dtype``."""
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--dtype",
        choices=("auto", *DTYPES),
        default="auto",
        help="auto: bfloat16 on a GPU, float32 on CPU",
    )


def device_and_dtype(options: argparse.Namespace) -> tuple[str, torch.dtype]:
    """What they stand for here: ``"cpu"`` or ``"cuda"``, and the type.

    Raises:
        ValueError: if the GPU asked for is absent.
    """
    import torch

    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device cuda: torch {torch.__version__} sees no CUDA GPU")
    name = options.dtype
    if name == "auto":
        name = "bfloat16" if device == "cuda" else "float32"
    return device, getattr(torch, name)
