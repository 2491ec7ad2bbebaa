"""Whole runs on one GPU, and on two through NCCL.

Twins on the CPU: that of the run on one GPU is here, those of the others are test_ranks.py and
test_fsdp.py. As a script this file is what each of two processes runs.
"""

from __future__ import annotations

import csv
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from packformer.cli import main as packformer_command
from packformer.command_line.main import main
from packformer.run.resume import LAST_CHECKPOINT
from packformer.training import LastCheckpoint, TrainingModule
from packformer.training.checkpoint import resumable_step

STEPS, RECORDED_EVERY, STOPPED_AT = 8, 4, 4
SETTINGS = (
    "+experiment=gqa",
    f"trainer.max_steps={STEPS}",
    f"trainer.log_every_n_steps={RECORDED_EVERY}",
    f"trainer.validate_every_n_steps={STEPS}",
    "trainer.rows_per_step=4",
    "callbacks.samples=null",
)
WATCHED = [5, 6, 7]  # steps after those that compile, before the record of the last
COPIES = ("trainer.devices=2",)
SHARDS = ("trainer.devices=2", "trainer.strategy=fsdp2")
_INTERRUPTED = 130

# Of losses and gradients, relative. On a GPU products are rounded to bfloat16, 2**-9 each.
NOISE = {"cpu": 1e-5, "gpu": 2e-2}
ONE = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
TWO = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()


@contextmanager
def kept(name: str) -> Iterator[None]:
    """Has a run write ``name.pt``: the gradients of its first step, before they are clipped, and
    the steps that it was watched in. In those nothing on the host may wait for a GPU.
    """
    found: dict[str, Any] = {"watched": []}
    training_step = TrainingModule.training_step

    def watching(module: Any, batch: Any, batch_idx: int) -> Any:
        step = module.trainer.global_step + 1
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("error" if step in WATCHED else "default")
        if step in WATCHED and step not in found["watched"]:
            found["watched"].append(step)
        return training_step(module, batch, batch_idx)

    def before_step(module: Any, optimizer: Any) -> None:
        if "gradients" not in found:
            found["gradients"] = [whole(p.grad).cpu() for p in module.model.parameters()]

    def at_the_end(module: Any) -> None:
        if module.global_rank == 0:
            torch.save(found, f"{name}.pt")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", watching)
        patch.setattr(TrainingModule, "on_before_optimizer_step", before_step)
        patch.setattr(TrainingModule, "on_train_end", at_the_end)
        try:
            yield
        finally:
            if torch.cuda.is_available():
                torch.cuda.set_sync_debug_mode("default")


def run(name: str, *settings: str) -> None:
    with kept(name):
        main([*settings, f"hydra.run.dir={name}"])


def run_as_a_rank(settings: list[str]) -> None:
    """All runs. At the first of two processes Lightning starts the other one with this file."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        run("one", *settings)
    run("copies", *settings, *COPIES)
    run("shards", *settings, *SHARDS)
    run("saves", *settings, *SHARDS, "trainer.max_steps=4", "trainer.validate_every_n_steps=2")


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory, small: list[str], as_ranks: Callable) -> Path:
    """The folder in which one process and two have left their runs."""
    folder = tmp_path_factory.mktemp("two")
    settings = [*small, *SETTINGS, "trainer.accelerator=gpu"]
    code, out = as_ranks(__file__, folder, settings, 500)
    assert code == 0, out
    return folder


def losses(folder: Path) -> dict[tuple[int, str], float]:
    """Of training and validation, by step."""
    with (folder / "metrics.csv").open() as file:
        return {
            (int(row["step"]), name): float(row[name])
            for row in csv.DictReader(file)
            for name in ("train/loss", "val/loss")
            if row.get(name)
        }


def check_trained(found: dict[tuple[int, str], float], noise: float) -> None:
    assert list(found) == [(4, "train/loss"), (8, "train/loss"), (8, "val/loss")]
    begun, ended = found[4, "train/loss"], found[8, "train/loss"]
    assert ended < begun * (1 - 2 * noise), "less was learned than noise would show"


@TWO
@pytest.mark.gpu
@pytest.mark.parametrize("name", ["copies", "shards"])
def test_two_ranks_train_as_one(name: str, of_two: Path) -> None:
    noise = NOISE["gpu"]
    wanted = losses(of_two / "one")
    check_trained(wanted, noise)
    assert losses(of_two / name) == pytest.approx(wanted, rel=noise)
    found, of_one = (torch.load(of_two / f"{run}.pt") for run in (name, "one"))
    assert found["watched"] == of_one["watched"] == WATCHED
    for gradient, of_whole in zip(found["gradients"], of_one["gradients"], strict=True):
        assert torch.linalg.norm(gradient - of_whole) <= noise * torch.linalg.norm(of_whole)


@TWO
@pytest.mark.gpu
def test_two_ranks_save_more_than_once(of_two: Path) -> None:
    assert [step for step, name in losses(of_two / "saves") if name == "val/loss"] == [2, 4]
    assert resumable_step(of_two / "saves" / LAST_CHECKPOINT) == 4


@pytest.mark.parametrize("device", ["cpu", pytest.param("gpu", marks=[pytest.mark.gpu, ONE])])
def test_a_run_trains_goes_on_and_writes(
    device: str,
    train: Callable,
    small: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = (*small, *SETTINGS, f"trainer.accelerator={device}")
    with kept("unbroken"):
        done = train(*settings, "hydra.run.dir=unbroken")
    assert done.code == 0, done.err
    assert torch.load(tmp_path / "unbroken.pt")["watched"] == WATCHED
    unbroken = losses(tmp_path / "unbroken")
    check_trained(unbroken, NOISE[device])

    on_end = LastCheckpoint.on_train_batch_end

    def asked(callback: Any, trainer: Any, *arguments: Any) -> None:
        callback._asked = signal.SIGINT if trainer.global_step == STOPPED_AT else 0
        on_end(callback, trainer, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LastCheckpoint, "on_train_batch_end", asked)
        assert train(*settings, "hydra.run.dir=stopped").code == _INTERRUPTED
    assert list(losses(tmp_path / "stopped")) == [(4, "train/loss")]
    done = train(*settings, "hydra.run.dir=stopped", "resume=stopped")
    assert done.code == 0, done.err
    assert losses(tmp_path / "stopped") == pytest.approx(unbroken, rel=NOISE[device])

    capsys.readouterr()
    place = "cuda" if device == "gpu" else "cpu"
    options = ("--device", place, "--max-new-tokens", "8", "--temperature", "0")
    packformer_command(["generate", str(tmp_path / "stopped"), "word1 word2", *options])
    assert len(capsys.readouterr().out) > len("word1 word2\n")


@ONE
@pytest.mark.gpu
def test_a_watched_step_that_waits_for_the_gpu_fails() -> None:
    number = torch.ones((), device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchroniz"):
            number.item()
    finally:
        torch.cuda.set_sync_debug_mode("default")


if __name__ == "__main__":
    run_as_a_rank([argument for argument in sys.argv[1:] if not argument.startswith("hydra.")])
