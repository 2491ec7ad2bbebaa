"""Compiles and proves the attention kernel while data are read, and model and step are built."""

from __future__ import annotations

import lightning as L
import torch

from packformer.attention import KERNELS, Kernel, Variant, sole_kernel
from packformer.attention.kernels import BY_PREFERENCE
from packformer.attention.proof.compiling import Call, call_of_layer, calls_of_proof
from packformer.attention.proof.rows import mixed_row
from packformer.attention.proof.verdicts import Verdicts
from packformer.compilers import Compilers
from packformer.data import PackingSettings
from packformer.model import GPT
from packformer.training import TrainingModule


class CompiledAhead(L.Callback):
    """Waits for the processes that compile and prove before the module takes its kernel.

    A run on one device does not wait if there is but one kernel to take: its step is compiled
    meanwhile, and the kernel's first call waits.

    Args:
        compilers: those processes.
    """

    def __init__(self, compilers: Compilers) -> None:
        self._compilers = compilers

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, TrainingModule)
        kernels = pl_module.kernels
        is_plain = trainer.world_size == 1 and pl_module.float8 is None
        if is_plain and all(self._prove(*asked) for asked in dict.fromkeys(kernels.asked(trainer))):
            kernels.take_before_proof(trainer, self._compilers.wait)
        else:
            self._compilers.wait()

    def _prove(self, variant: Variant, asked: str | Kernel) -> bool:
        """Whether they prove the one kernel that there is to take."""
        kernel = sole_kernel(variant, asked)
        return kernel is not None and self._compilers.prove(kernel.name, str(variant))


def compile_ahead(
    compilers: Compilers,
    model: GPT,
    device_type: str,
    dtype: torch.dtype,
    packing: PackingSettings,
) -> None:
    """Has compiled and proved what was not proved on this machine yet.

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
    proofs: dict[str, dict[str, str]] = {}
    asked = model.asked_of_kernels(device_type, dtype)
    for layer, (variant, requested) in zip(model.layers, asked, strict=True):
        kernel = _first(requested)
        if not kernel.keeps_programs or kernel.unfit(variant):
            continue
        if kernel.name not in KERNELS:  # the user's, which other processes do not know
            continue
        if not compilers.have_begun and (kernel.lacks() or _is_judged(kernel, variant)):
            continue
        of_layer = call_of_layer(
            variant, layer.num_heads, layer.num_kv_heads, packing.row_length, longest
        )
        calls = wanted.setdefault(kernel.name, [])
        calls += [c for c in (*calls_of_proof(variant), of_layer) if c not in calls]
        proofs.setdefault(kernel.name, {})[str(variant)] = mixed_row(variant).to_json()
    for name, calls in wanted.items():
        told = [(c.case.to_json(), c.deterministic) for c in calls]
        compilers.give(name, device_type, told, proofs[name])


def _first(requested: str | Kernel) -> Kernel:
    """The kernel that is tried first."""
    if isinstance(requested, Kernel):
        return requested
    return BY_PREFERENCE[0] if requested == "auto" else KERNELS[requested]


def _is_judged(kernel: Kernel, variant: Variant) -> bool:
    """Whether it is known to be right or wrong on this machine; not if it was only timed."""
    verdict = Verdicts(variant.device_type).known(variant).get(kernel.name)
    return verdict is not None and (verdict.status == "ok" or verdict.is_against)
