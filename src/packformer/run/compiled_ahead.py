"""Compiles the attention kernel while data are read and the model is built."""

from __future__ import annotations

import lightning as L
import torch

from packformer.attention import KERNELS, Kernel, Variant
from packformer.attention.kernels import BY_PREFERENCE
from packformer.attention.proof.compiling import Call, call_of_layer, calls_of_proof
from packformer.attention.proof.verdicts import Verdicts
from packformer.compilers import Compilers
from packformer.data import PackingSettings
from packformer.model import GPT


class CompiledAhead(L.Callback):
    """Waits for the processes that compile before the module proves its kernel.

    Args:
        compilers: those processes.
    """

    def __init__(self, compilers: Compilers) -> None:
        self._compilers = compilers

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._compilers.wait()


def compile_ahead(
    compilers: Compilers,
    model: GPT,
    device_type: str,
    dtype: torch.dtype,
    packing: PackingSettings,
) -> None:
    """Has compiled what will be proved for the first time on this machine.

    Compilers that have begun are not kept waiting until this process has imported the kernel:
    they see for themselves whether the machine has what it needs.

    Args:
        compilers: that compile it.
        model: on any device; its weights are not needed.
        device_type: where it will run.
        dtype: of queries, keys and values.
        packing: of its rows.
    """
    longest = packing.max_document_length or packing.row_length
    wanted: dict[str, list[Call]] = {}
    asked = model.asked_of_kernels(device_type, dtype)
    for layer, (variant, requested) in zip(model.layers, asked, strict=True):
        kernel = _first(requested)
        if not kernel.keeps_programs or kernel.unfit(variant):
            continue
        if not compilers.have_begun and (kernel.lacks() or _is_judged(kernel, variant)):
            continue
        of_layer = call_of_layer(
            variant, layer.num_heads, layer.num_kv_heads, packing.row_length, longest
        )
        calls = wanted.setdefault(kernel.name, [])
        calls += [c for c in (*calls_of_proof(variant), of_layer) if c not in calls]
    for name, calls in wanted.items():
        compilers.give(name, device_type, [(c.case.to_json(), c.deterministic) for c in calls])


def _first(requested: str | Kernel) -> Kernel:
    """The kernel that is tried first."""
    if isinstance(requested, Kernel):
        return requested
    return BY_PREFERENCE[0] if requested == "auto" else KERNELS[requested]


def _is_judged(kernel: Kernel, variant: Variant) -> bool:
    """Whether it is known to be right or wrong on this machine; not if it was only timed."""
    verdict = Verdicts(variant.device_type).known(variant).get(kernel.name)
    return verdict is not None and (verdict.status == "ok" or verdict.is_against)
