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

    The xFormers wheel is linked against CUDA 12's runtime. A CUDA 13 torch does not bring that
    runtime, so it is loaded first. xFormers also looks for FlashAttention 2 under the name
    ``flash_attn``. FlashAttention 4 has the same name but other modules, so the name is hidden
    during the import.

    Raises:
        ValueError: if xFormers is not installed, or it or CUDA 12's runtime cannot be loaded.
    """
    if (runtime := _cuda12_runtime()) is not None:
        try:
            ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise ValueError(f"{runtime} cannot be loaded ({error})") from error
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


def how_xformers_was_loaded() -> str:
    """What was needed to load it, and which of its operators this machine has; or why none has."""
    try:
        fmha = load_fmha()
    except ValueError as error:
        return str(error)
    operators = ", ".join(op.NAME for op in fmha.ALL_FW_OPS if op.is_available()) or "none"
    runtime = _cuda12_runtime()
    beside = f"; {runtime.name} loaded first, from {runtime.parent}" if runtime else ""
    return f"operators here: {operators}{beside}"


def _cuda12_runtime() -> Path | None:
    """CUDA 12's runtime from its own package, if torch brings another one."""
    if torch.version.cuda is None or torch.version.cuda.startswith("12."):
        return None
    spec = importlib.util.find_spec("nvidia")
    for root in (spec.submodule_search_locations or []) if spec else []:
        library = Path(root) / "cuda_runtime" / "lib" / "libcudart.so.12"
        if library.exists():
            return library
    return None
