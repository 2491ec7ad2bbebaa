"""The one place that imports xFormers."""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch


@cache
def load_fmha() -> ModuleType:
    """Imports ``xformers.ops.fmha`` so that it works beside any CUDA build of torch.

    The xFormers wheel is linked against CUDA 12's runtime, which a CUDA 13 torch does not bring: it
    is loaded first. And xFormers probes for FlashAttention 2 by the name ``flash_attn``, which
    FlashAttention 4 also carries without its modules: the name is hidden during the import.

    Raises:
        ValueError: if xFormers is not installed, or it or CUDA 12's runtime cannot be loaded.
    """
    if torch.version.cuda is not None and not torch.version.cuda.startswith("12."):
        _load_cuda12_runtime()
    logger = logging.getLogger("xformers")
    level = logger.level
    if torch.version.cuda is None:
        logger.setLevel(logging.ERROR)  # that its CUDA library has no use on CPU is no news
    absent = object()
    hidden: Any = sys.modules.get("flash_attn", absent)
    sys.modules["flash_attn"] = None  # type: ignore[assignment]
    try:
        from xformers.ops import fmha
    except ImportError as error:
        raise ValueError(f"xFormers cannot be imported ({error}): pip install xformers") from error
    finally:
        logger.setLevel(level)
        del sys.modules["flash_attn"]
        if hidden is not absent:
            sys.modules["flash_attn"] = hidden
    return fmha


def _load_cuda12_runtime() -> None:
    spec = importlib.util.find_spec("nvidia")
    for root in (spec.submodule_search_locations or []) if spec else []:
        library = Path(root) / "cuda_runtime" / "lib" / "libcudart.so.12"
        if library.exists():
            try:
                ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
            except OSError as error:
                raise ValueError(f"{library} cannot be loaded ({error})") from error
            return
