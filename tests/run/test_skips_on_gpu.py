"""A compiled run on a GPU skips steps without a wait of the host; its twin runs on the CPU."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from packformer.training import TrainingModule
from packformer.training.loss import RowLoss

SETTINGS = (
    "+experiment=gqa",
    "trainer.max_steps=8",
    "trainer.log_every_n_steps=4",
    "trainer.validate_every_n_steps=8",
    "trainer.rows_per_step=2",
    "callbacks.samples=null",
    "guard.spike_sigma=50",
    "guard.spike_window=4",
)
LOSS, SPIKE, GRADIENT = 5, 6, 7  # between two records: nothing there may wait for the GPU
_LOSSES = {LOSS: float("inf"), SPIKE: 1e9}
GPU = pytest.param(
    "gpu",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    ],
)


def plant(patch: pytest.MonkeyPatch, *, waits: bool) -> list[dict[str, Tensor]]:
    """Breaks steps, outside of what is compiled.

    Returns:
        Weights and optimizer states after each step, filled as the run goes on.
    """
    step, before = TrainingModule.training_step, TrainingModule.on_before_optimizer_step
    end = TrainingModule.on_train_batch_end
    after: list[dict[str, Tensor]] = []

    def training_step(module: Any, batch: Any, number: int) -> Any:
        due = module.trainer.global_step + 1
        if torch.cuda.is_available() and not waits:
            watched = due in (LOSS, SPIKE, GRADIENT)
            torch.cuda.set_sync_debug_mode("error" if watched else "default")
        loss = module._training_loss
        added = _LOSSES.get(due, 0)

        def changed(*arguments: Any) -> RowLoss:
            found = loss(*arguments)
            return found._replace(loss=found.loss + added, nats=found.nats + added)

        module._training_loss = changed
        result = step(module, batch, number)
        module._training_loss = loss
        return result

    def on_before_optimizer_step(module: Any, optimizer: Any) -> None:
        before(module, optimizer)
        if module.trainer.global_step + 1 == GRADIENT:
            module.model.norm.weight.grad[:1] = float("nan")

    def on_end(module: Any, outputs: Any, batch: Any, number: int) -> None:
        end(module, outputs, batch, number)
        if module.trainer.global_step > len(after):
            states = module.trainer.optimizers[0].state_dict()["state"]
            tensors = {f"{n} {k}": v for n, s in states.items() for k, v in s.items()}
            tensors |= dict(module.model.named_parameters())
            after.append({k: v.detach().clone() for k, v in tensors.items()})

    patch.setattr(TrainingModule, "training_step", training_step)
    patch.setattr(TrainingModule, "on_before_optimizer_step", on_before_optimizer_step)
    patch.setattr(TrainingModule, "on_train_batch_end", on_end)
    return after


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("accelerator", ["cpu", GPU])
def test_a_compiled_run_skips_what_is_not_finite_and_spikes(
    train: Callable,
    small: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    accelerator: str,
    optimizer: str,
) -> None:
    after = plant(monkeypatch, waits=optimizer == "muon")
    settings = (f"trainer.accelerator={accelerator}", f"optimizer={optimizer}")
    try:
        done = train(*small, *SETTINGS, *settings)
    finally:
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("default")
    assert done.code == 0, done.err
    unchanged = [
        number
        for number, (one, other) in enumerate(zip(after, after[1:], strict=False), start=2)
        if all(torch.equal(value, one[name]) for name, value in other.items())
    ]
    assert unchanged == [LOSS, SPIKE, GRADIENT]
    (file,) = tmp_path.glob("runs/*/skipped.csv")
    with file.open(newline="") as stream:
        causes = {int(row["step"]): row["cause"] for row in csv.DictReader(stream)}
    assert causes == {LOSS: "loss", SPIKE: "spike", GRADIENT: "gradient"}
