"""Kernels that are taken before they are proved: the proof is made while the step is compiled."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from packformer.attention import (
    KERNELS,
    NotProved,
    Variant,
    Verdict,
    Verdicts,
    choice,
    select_proved_kernel,
)
from packformer.attention.kernels.awaited import before_call, wait_before_first_call
from packformer.batch import PackedBatch
from packformer.data.rows import PackedRows
from packformer.data.settings import PackingSettings
from packformer.data.tasks import Copying
from packformer.model import GPT
from packformer.nn import Rotary
from packformer.training import TrainingModule, adamw, constant

SDPA = KERNELS["sdpa"]
BEFORE_PROOF = "attend   flash4 (awaited): its proof is being made"


@torch.library.custom_op("packformer_tests::awaited", mutates_args=())
def _awaited(q: Tensor) -> Tensor:
    before_call()
    return q.clone()


@_awaited.register_fake
def _(q: Tensor) -> Tensor:
    return torch.empty_like(q)


_awaited.register_autograd(lambda ctx, grad: grad)


def _run(q: Tensor, *others: Any, **options: Any) -> Tensor:
    return SDPA.run(_awaited(q), *others, **options)


@pytest.fixture(autouse=True)
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel for CPUs in the place of flash4, never proved."""
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path))
    awaited = replace(
        SDPA, name="flash4", description="awaited", run=_run, slower_than=(), keeps_programs=True
    )
    monkeypatch.setitem(KERNELS, "flash4", awaited)
    monkeypatch.setattr(choice, "BY_PREFERENCE", (awaited, SDPA))
    yield
    wait_before_first_call(None)


@pytest.fixture
def batches() -> list[PackedBatch]:
    data = Copying(num_symbols=10).prepare().train
    rows = PackedRows(data, PackingSettings(64), max_documents=8, seed=0, limit=3)
    return list(rows)


def _module(compile: bool = False, kernel: str = "auto", num_layers: int = 2) -> TrainingModule:
    torch.manual_seed(0)
    model = GPT(11, 64, num_layers=num_layers, width=16, num_heads=2, position=Rotary)
    for layer in model.layers:
        layer.kernel = kernel
    return TrainingModule(
        model, adamw, partial(constant, num_steps=9), token_budget=25, compile=compile
    )


@pytest.fixture(autouse=True)
def trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = SimpleNamespace(root_device=torch.device("cpu"), broadcast=lambda choice: choice)
    alone = SimpleNamespace(strategy=strategy, precision="32-true", is_global_zero=True)
    monkeypatch.setattr(TrainingModule, "trainer", alone)


def _keep(status: str | None) -> None:
    """What the process that proves keeps."""
    if status is None:
        return
    variant = Variant("cpu", torch.float32, 8)
    milliseconds = None if status == "wrong" else 1.5
    verdict = Verdict(status, "errs" if status == "wrong" else "", {}, {}, True, milliseconds)
    Verdicts("cpu").keep(KERNELS["flash4"], variant, verdict)


def _losses(module: TrainingModule, batches: list[PackedBatch]) -> list[float]:
    return [module.training_step(batch, 0).item() for batch in batches]


def _set_up(module: TrainingModule, proof: Callable[[], None]) -> None:
    module.kernels.take_before_proof(module.trainer, proof)
    module.setup("fit")


@pytest.mark.parametrize("compile", [False, True])
def test_the_first_call_waits_for_the_proof(
    compile: bool, batches: list[PackedBatch], caplog: pytest.LogCaptureFixture
) -> None:
    expected = _losses(_module(), batches)
    caplog.set_level(logging.INFO, "packformer")
    waited: list[int] = []
    module = _module(compile)
    _set_up(module, lambda: (waited.append(1), _keep("ok")))  # type: ignore[arg-type, return-value]
    assert not waited
    assert _losses(module, batches) == pytest.approx(expected, rel=1e-5)
    assert waited == [1]
    assert module.kernels.told == "flash4 (awaited): proved, 1.50 ms"
    # No other line: nothing was proved here, and nothing compiled again.
    assert caplog.messages == [BEFORE_PROOF, f"attend   {module.kernels.told}"]


@pytest.mark.parametrize(
    ("status", "compile"), [("wrong", False), ("wrong", True), ("slower", False), (None, False)]
)
def test_a_kernel_without_a_good_verdict_is_chosen_anew(
    status: str | None,
    compile: bool,
    batches: list[PackedBatch],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Wrong, only timed, or never judged, as when the process that proves died."""
    expected = _losses(_module(), batches)
    caplog.set_level(logging.INFO, "packformer")
    module = _module(compile)
    _set_up(module, partial(_keep, status))
    assert _losses(module, batches) == pytest.approx(expected, rel=1e-5)
    assert module.kernels.told.startswith(
        "sdpa" if status == "wrong" else "flash4 (awaited): proved, "
    )
    proving = f"proving  {'sdpa' if status == 'wrong' else 'flash4'} on cpu float32 8, once"
    assert caplog.messages == [BEFORE_PROOF, proving, f"attend   {module.kernels.told}"]


def test_a_kernel_that_is_named_and_wrong_runs_with_a_warning(
    batches: list[PackedBatch], caplog: pytest.LogCaptureFixture
) -> None:
    expected = _losses(_module(), batches)
    module = _module(kernel="flash4")
    _set_up(module, partial(_keep, "wrong"))
    assert _losses(module, batches) == pytest.approx(expected, rel=1e-5)
    assert module.kernels.told.startswith("flash4")
    assert "attention kernel flash4 errs on cpu" in caplog.text


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_validation_may_come_first(mode: Callable[[], Any], batches: list[PackedBatch]) -> None:
    """A proof needs gradients, and the precision that it asks for."""
    module, expected = _module(), _module()
    _set_up(module, partial(_keep, "wrong"))
    for each in (module, expected):
        each.eval()
        with mode(), torch.autocast("cpu", torch.bfloat16):
            each.validation_step(batches[0], 0)
    assert module.kernels.told.startswith("sdpa")
    assert module.val_loss.compute()["loss"] == pytest.approx(expected.val_loss.compute()["loss"])


def test_a_validation_may_follow_a_fit_without_a_step(batches: list[PackedBatch]) -> None:
    """What the layers asked for is remembered, not the kernel that was taken for it."""
    module = _module()
    _set_up(module, partial(_keep, "wrong"))
    module.kernels.take_before_proof(module.trainer, partial(_keep, "wrong"))
    module.setup("validate")
    with torch.no_grad():
        module.validation_step(batches[0], 0)
    assert module.kernels.told.startswith("sdpa")


def test_a_proof_in_a_step_is_that_of_setup(
    batches: list[PackedBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever precision Lightning sets for a step."""
    seen = []

    def of(*arguments: Any) -> Any:
        seen.append((torch.get_default_dtype(), torch.is_autocast_enabled("cpu")))
        return select_proved_kernel(*arguments)

    monkeypatch.setattr("packformer.training.kernel_choice.select_proved_kernel", of)
    module = _module()
    _set_up(module, partial(_keep, None))
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            module.training_step(batches[0], 0)
        assert torch.get_default_dtype() == torch.bfloat16
    finally:
        torch.set_default_dtype(torch.float32)
    assert seen == [(torch.float32, False)]


@pytest.mark.parametrize(("status", "times"), [("ok", 1), ("wrong", 2)])
def test_memory_that_a_proof_in_a_step_took_is_forgotten(
    status: str, times: int, batches: list[PackedBatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten: list[str] = []
    for room in ("module", "kernel_choice"):
        monkeypatch.setattr(f"packformer.training.{room}.forget_gpu_peak", forgotten.append)
    module = _module()
    _set_up(module, partial(_keep, status))
    _losses(module, batches)
    assert forgotten == ["cpu"] * times


def test_what_a_former_job_waited_for_is_forgotten(batches: list[PackedBatch]) -> None:
    """It failed before its first step, in the same process."""

    def fail() -> None:
        raise NotProved

    _set_up(_module(), fail)
    _keep("ok")
    module = _module()
    module.setup("fit")
    _losses(module, batches)
