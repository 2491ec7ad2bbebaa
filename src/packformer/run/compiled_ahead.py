"""Compiles the attention kernel while data are read and the model is built."""

from __future__ import annotations

import lightning as L
import torch

from packformer.attention import Kernel, Variant, select_kernel
from packformer.attention.proof.compiling import Call, call_of_layer, calls_of_proof
from packformer.attention.proof.verdicts import Verdicts, known_wrong
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

    Args:
        compilers: that compile it.
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
        calls_of_kernel = [(call.case.to_json(), call.deterministic) for call in wanted]
        compilers.give(kernel.name, device_type, calls_of_kernel)


def _is_proved(kernel: Kernel, variant: Variant) -> bool:
    verdict = Verdicts(variant.device_type).known(variant).get(kernel.name)
    return verdict is not None and verdict.status == "ok"
