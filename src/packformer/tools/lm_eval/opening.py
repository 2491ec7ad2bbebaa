"""A run by the names that lm-evaluation-harness gives to its parts."""

from __future__ import annotations

import logging

import torch
from tokenizers import Tokenizer

from packformer.model import GPT
from packformer.run.load import load
from packformer.tools.device_arguments import DTYPES
from packformer.tools.placement import choose_kernels

log = logging.getLogger(__name__)


def opened(path: str, device: str | None, dtype: str | None) -> tuple[GPT, Tokenizer]:
    """Model and tokenizer, the model where and in what it computes.

    Args:
        path: of what ``packformer.load`` opens.
        device: None for a GPU if there is one.
        dtype: None for bfloat16 on a GPU and float32 on a CPU.

    Raises:
        ValueError: if the run cannot be opened, has no tokenizer, or cannot compute there.
    """
    place = torch.device(_device(device))
    type = _dtype(dtype, place)
    model, tokenizer = load(path)
    if tokenizer is None:
        raise ValueError(f"{path} has no tokenizer.json: tasks are text")
    model.to(device=place, dtype=type)
    log.info("attend   %s", choose_kernels(model, place.type, type))
    return model, tokenizer


def _device(asked: str | None) -> str:
    on_gpu = torch.cuda.is_available()
    if asked is not None and asked.startswith("cuda") and not on_gpu:
        raise ValueError(f"device ({asked}): torch {torch.__version__} sees no CUDA GPU")
    return asked or ("cuda" if on_gpu else "cpu")


def _dtype(asked: str | None, device: torch.device) -> torch.dtype:
    name = asked or ("bfloat16" if device.type == "cuda" else "float32")
    if name not in DTYPES:
        raise ValueError(f"dtype ({name}) must be one of {', '.join(DTYPES)}")
    found: torch.dtype = getattr(torch, name)
    return found
