"""The attention kernels that a model trains with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple, ParamSpec, TypeVar

import lightning as L
import torch
from torch import autocast, enable_grad, inference_mode

from packformer.attention import (
    KERNELS,
    Kernel,
    NotProved,
    Variant,
    Verdicts,
    select_proved_kernel,
    sole_kernel,
    wait_before_first_call,
)
from packformer.model import GPT
from packformer.training.precision import DTYPES

log = logging.getLogger(__name__)

_P = ParamSpec("_P")
_R = TypeVar("_R")


class KernelChoice:
    """The attention kernels of a model, for the device and precision of a run.

    A kernel is proved before it is taken, or while the step is compiled: then its first call waits
    for the proof. If that fails, kernels are chosen anew and what was called is computed again.

    Args:
        model: whose layers get their kernels.

    Attributes:
        told: the choice and why, for logs.
    """

    def __init__(self, model: GPT) -> None:
        self.told = "not chosen yet"
        self._model = model
        self._awaited: _Awaited | None = None

    def asked(self, trainer: L.Trainer) -> list[tuple[Variant, str | Kernel]]:
        """What each layer asks of its kernel, and the kernel it wants or ``"auto"``."""
        dtype = DTYPES[str(trainer.precision)]
        return self._model.asked_of_kernels(trainer.strategy.root_device.type, dtype)

    def take_before_proof(self, trainer: L.Trainer, proof: Callable[[], None]) -> None:
        """Has ``choose`` take each layer's ``sole_kernel`` without a proof.

        Args:
            trainer: of the run.
            proof: returns when it is made.
        """
        # A fit without a step left took kernels already, and a validation follows.
        former = self._awaited
        asked = self.asked(trainer) if former is None else former.asked
        self._awaited = _Awaited(trainer, proof, asked)

    def choose(self, trainer: L.Trainer, stage: str) -> None:
        """Gives each layer its kernel.

        Args:
            trainer: of the run.
            stage: of Lightning; ``"fit"`` logs the choice.

        Raises:
            ValueError: if no kernel, or not the one named, can run a layer.
        """
        wait_before_first_call(None if self._awaited is None else self._awaited.check)

        def select(variant: Variant, asked: str | Kernel) -> tuple[Kernel, str]:
            taken = _taken_before_proof if self._awaited is not None else _of_rank_0
            return taken(trainer, variant, asked)

        dtype = DTYPES[str(trainer.precision)]
        self.told = self._model.select_kernel(trainer.strategy.root_device.type, dtype, select)
        if stage == "fit":
            log.info("attend   %s", self.told)

    def computed(self, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """``function(*args, **kwargs)``, with kernels that are proved."""
        if self._awaited is None:
            return function(*args, **kwargs)
        result = None
        with suppress(NotProved):
            result = function(*args, **kwargs)
        trainer, _, asked = self._awaited
        self._awaited = None
        for layer, (_, wanted) in zip(self._model.layers, asked, strict=True):
            layer.kernel = wanted
        device_type = trainer.strategy.root_device.type
        with _as_in_setup(device_type):
            self.choose(trainer, "fit")  # it may prove
        if result is None:
            forget_gpu_peak(device_type)
            torch.compiler.reset()  # what is compiled has the other kernel
            result = function(*args, **kwargs)
        return result


class _Awaited(NamedTuple):
    """A proof that is being made.

    Attributes:
        trainer: of the run.
        proof: returns when it is made.
        asked: of ``GPT.asked_of_kernels``, before a kernel was chosen.
    """

    trainer: L.Trainer
    proof: Callable[[], None]
    asked: list[tuple[Variant, str | Kernel]]

    def check(self) -> None:
        """Waits for it.

        Raises:
            NotProved: if there is none, or it failed.
        """
        self.proof()
        for variant, asked in dict.fromkeys(self.asked):
            kernel = sole_kernel(variant, asked)
            known = Verdicts(variant.device_type).known(variant)
            if kernel is None or kernel.name not in known or known[kernel.name].status != "ok":
                raise NotProved(f"the attention kernel for {variant} is not proved: start again")


def _taken_before_proof(
    trainer: L.Trainer, variant: Variant, asked: str | Kernel
) -> tuple[Kernel, str]:
    kernel = sole_kernel(variant, asked)
    assert kernel is not None
    return kernel, "its proof is being made"


def _of_rank_0(trainer: L.Trainer, variant: Variant, asked: str | Kernel) -> tuple[Kernel, str]:
    # Measured times differ between ranks, kernels must not. If rank 0 cannot choose, the others
    # must hear of it too, or they would wait for ever.
    choice = ("", "")
    if trainer.is_global_zero:
        try:
            kernel, why = select_proved_kernel(variant, asked)
            choice = (kernel.name, why)
        except ValueError as error:
            choice = ("", str(error))
    name, why = trainer.strategy.broadcast(choice)
    if not name:
        raise ValueError(why)
    return KERNELS[name] if isinstance(asked, str) else asked, why


@contextmanager
def _as_in_setup(device_type: str) -> Iterator[None]:
    """Computes with gradients, and without the precision of a step: its ``autocast``, or the
    default dtype that Lightning sets for ``bf16-true``."""
    former = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with inference_mode(False), enable_grad(), autocast(device_type, enabled=False):
            yield
    finally:
        torch.set_default_dtype(former)


def forget_gpu_peak(device_type: str) -> None:
    """Begins the peak of GPU memory anew: what a proof took is no part of a run's."""
    if device_type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
