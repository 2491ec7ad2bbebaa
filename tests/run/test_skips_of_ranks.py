"""What one of two processes cannot use, both skip."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import run_ranks
from torch import Tensor
from torch.distributed.tensor import DTensor

from packformer.command_line.main import main
from packformer.training import TrainingModule
from packformer.training.loss import RowLoss

SETTINGS = (
    "+experiment=gqa",
    "trainer.accelerator=cpu",
    "trainer.devices=2",
    "trainer.max_steps=7",
    "trainer.validate_every_n_steps=7",
    "trainer.log_every_n_steps=7",
    "trainer.rows_per_step=4",
    "packing.row_length=128",
    "model.num_layers=1",
    "guard.spike_sigma=6",
    "guard.spike_window=4",
)
STRATEGIES = {"ddp": (), "fsdp": ("trainer.strategy=fsdp2",)}
NAN_LOSS, INF_LOSS, GRADIENT, SPIKE = 2, 3, 4, 6
SKIPPED = [NAN_LOSS, INF_LOSS, GRADIENT, SPIKE]
PLANTED_ROW = 1  # of the last rank
_LOSSES = {NAN_LOSS: float("nan"), INF_LOSS: float("inf"), SPIKE: 1e5}


class BrokenGradient(torch.autograd.Function):
    """The identity, whose gradient is infinite."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * float("inf")


def plant(patch: pytest.MonkeyPatch, name: str) -> None:
    """Breaks steps on the last rank, and has each write ``name-RANK.pt``: weights and states of
    its optimizer after each step, its own part."""
    loss, end = TrainingModule._eager_loss, TrainingModule.on_train_batch_end
    start = TrainingModule.on_train_batch_start
    after: list[dict[str, Tensor]] = []
    row = [0]

    def on_start(module: Any, batch: Any, number: int) -> None:
        start(module, batch, number)
        row[0] = number % module.trainer.accumulate_grad_batches

    def planted(module: Any, *arguments: Any) -> RowLoss:
        found = loss(module, *arguments)
        last = module.global_rank == module.trainer.world_size - 1
        if not module.trainer.training or not last or row[0] != PLANTED_ROW:
            return found
        step = module.trainer.global_step + 1
        if step == GRADIENT:
            return found._replace(loss=BrokenGradient.apply(found.loss))
        added = _LOSSES.get(step, 0)
        return found._replace(loss=found.loss + added, nats=found.nats + added)

    def on_end(module: Any, outputs: Any, batch: Any, number: int) -> None:
        end(module, outputs, batch, number)
        if module.trainer.global_step > len(after):
            states = module.trainer.optimizers[0].state
            tensors = dict(module.model.named_parameters())
            for key, p in list(tensors.items()):
                tensors |= {f"{key} {k}": v for k, v in states[p].items()}
            after.append({k: _own(v).detach().clone() for k, v in tensors.items()})

    def at_the_end(module: Any) -> None:
        torch.save(after, f"{name}-{module.global_rank}.pt")

    patch.setattr(TrainingModule, "on_train_batch_start", on_start)
    patch.setattr(TrainingModule, "_eager_loss", planted)
    patch.setattr(TrainingModule, "on_train_batch_end", on_end)
    patch.setattr(TrainingModule, "on_train_end", at_the_end)


def _own(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def run_as_a_rank(settings: list[str]) -> None:
    """A run of each strategy. The first starts the other rank."""
    for name, strategy in STRATEGIES.items():
        with pytest.MonkeyPatch.context() as patch:
            plant(patch, name)
            main([*settings, *strategy, f"hydra.run.dir={name}"])
    torch.distributed.barrier()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory, small: list[str]) -> Path:
    """Where two processes have left ``{ddp,fsdp}-{0,1}.pt`` and their run folders."""
    folder = tmp_path_factory.mktemp("ranks")
    code, out = run_ranks(run_as_a_rank, [*small, *SETTINGS], folder, 120)
    assert code == 0, out
    return folder


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_both_ranks_skip_what_breaks_on_one(ranks: Path, strategy: str, rank: int) -> None:
    after = torch.load(ranks / f"{strategy}-{rank}.pt")
    assert len(after) == 7
    unchanged = [
        step
        for step, (before, now) in enumerate(zip(after, after[1:], strict=False), start=2)
        if all(torch.equal(before[name], value) for name, value in now.items())
    ]
    assert unchanged == SKIPPED
    assert all(value.isfinite().all() for value in after[-1].values())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_rows_of_the_rank_are_named(ranks: Path, strategy: str) -> None:
    with (ranks / strategy / "skipped.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {(int(r["step"]), r["cause"]) for r in rows} == {
        (NAN_LOSS, "loss"),
        (INF_LOSS, "loss"),
        (GRADIENT, "gradient"),
        (SPIKE, "spike"),
    }
    of_losses = [(r["rank"], r["row"]) for r in rows if r["cause"] == "loss"]
    assert of_losses == [("1", str(PLANTED_ROW + 1))] * 2
    of_gradient = [(r["rank"], r["row"]) for r in rows if r["cause"] == "gradient"]
    assert of_gradient == [("0", "1"), ("0", "2"), ("1", "1"), ("1", "2")]
    assert all(" document " in row["documents"] for row in rows)
