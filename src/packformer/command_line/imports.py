"""Imports what trains: torch, Lightning and packformer's own part of a run."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from packformer.run.lean import import_lean
from packformer.run.process_state import remember_torch

_DETERMINISTIC = {  # read by cuBLAS when it begins, and by torch's compiler when it is imported
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "TORCHINDUCTOR_DETERMINISTIC": "1",
}

_settled: list[bool] = []  # the value of ``deterministic`` that torch was imported with


def is_imported_otherwise(deterministic: bool) -> bool:
    """Whether torch was imported with another value of ``deterministic``, which now acts."""
    return bool(_settled) and _settled[0] != deterministic


def import_training(deterministic: bool, settings: Mapping[str, Any] | None) -> None:
    """Imports it, which takes seconds, unless torch is there.

    Args:
        deterministic: whether the run shall compute the same numbers each time.
        settings: of the run, resolved, as plain types: what it cannot need is left out. None: all
            is imported.
    """
    if deterministic:
        os.environ.update(_DETERMINISTIC)
    if "torch" in sys.modules:
        return
    _settled[:] = [deterministic]
    gc.disable()  # imports make no garbage, and looking for it takes a tenth of their time
    try:
        if settings is not None:
            import_lean(settings)
        import_module("packformer.run.train")
    finally:
        gc.enable()
    remember_torch()
    gc.freeze()  # later searches need not look at modules
