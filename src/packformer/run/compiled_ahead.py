"""Compiles the attention kernel while data are read and the model is built."""

from __future__ import annotations

import lightning as L
import torch

from packformer.attention import Kernel, Variant, select_kernel
from packformer.attention.proof.compiling import Call, Compiling, call_of_layer, calls_of_proof
from packformer.attention.proof.verdicts import Verdicts, known_wrong
from packformer.data import PackingSettings
from packformer.model import GPT


class CompiledAhead(L.Callback):
    """Waits for the processes that compile before the module proves its kernel.

    Args:
        compiling: those processes.
    """

    def __init__(self, compiling: Compiling) -> None:
        self._compiling = compiling

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._compiling.wait()


def compile_ahead(
    compiling: Compiling,
    model: GPT,
    device_type: str,
    dtype: torch.dtype,
    packing: PackingSettings,
) -> None:
    """Starts to compile what will be proved for the first time on this machine.

    Args:
        compiling: starts the processes.
        model: on any device; its weights are not needed.
        device_type: where it will run.
        dtype: of queries, keys and values.
        packing: of its rows.

    Raises:
        ValueError: if no kernel can run a layer.
    """
    longest = packing.max_document_length or packing.row_length
    calls: dict[str, tuple[Kernel, list[Call]]] = {}
    asked = model.asked_of_kernels(device_type, dtype)
    for layer, (variant, requested) in zip(model.layers, asked, strict=True):
        kernel, _ = select_kernel(variant, requested, known_wrong(variant))
        if not kernel.keeps_programs or _is_proved(kernel, variant):
            continue
        of_layer = call_of_layer(
            variant, layer.num_heads, layer.num_kv_heads, packing.row_length, longest
        )
        _, wanted = calls.setdefault(kernel.name, (kernel, []))
        for call in (*calls_of_proof(variant), of_layer):
            if call not in wanted:
                wanted.append(call)
    for kernel, wanted in calls.values():
        compiling.start(kernel, device_type, wanted)


def _is_proved(kernel: Kernel, variant: Variant) -> bool:
    verdict = Verdicts(variant.device_type).known(variant).get(kernel.name)
    return verdict is not None and verdict.status == "ok"
