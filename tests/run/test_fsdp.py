"""A model in shards trains as a whole one; each continues from the other's checkpoint."""

from __future__ import annotations

import csv
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import run_ranks
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.tensor import DTensor

import packformer
from packformer.cli import main as packformer_command
from packformer.command_line.main import main
from packformer.run.newest import newest_whole
from packformer.training import LastCheckpoint, TrainingModule
from packformer.training.checkpoint import recorded_steps
from packformer.training.shards import folder_of

STEPS, STOPPED_AT = 4, 2
COMMON = (
    "+experiment=gqa",
    "trainer.accelerator=cpu",
    f"trainer.max_steps={STEPS}",
    "trainer.validate_every_n_steps=3",
    "packing.row_length=128",
    "loader.validation_rows=3",
    "callbacks.samples=null",
)
ACCUMULATED = "trainer.rows_per_step=4"
PLAIN = "trainer.rows_per_step=2"
SHARDED = ("trainer.devices=2", "trainer.strategy=fsdp2")
COPIES = ("trainer.devices=2", "trainer.strategy=auto")
ALONE = ("trainer.devices=1", "trainer.strategy=auto")
FLOAT8 = "trainer.float8=emulate"
UNTIED = "model.tie_embeddings=false"
TABLES = "attention.value_embeddings=true"
_INTERRUPTED = "130"


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()


def keep(patch: pytest.MonkeyPatch, name: str) -> None:
    """Has a run write ``name.pt``: the gradients of its first step, before they are clipped, and
    the weights before and after training.
    """
    kept: dict[str, Any] = {}

    def at_the_start(module: Any) -> None:
        kept["initial"] = [whole(p.detach()) for p in module.model.parameters()]

    def before_step(module: Any, optimizer: Any) -> None:
        if "gradients" not in kept:
            kept["gradients"] = [whole(p.grad) for p in module.model.parameters()]

    def at_the_end(module: Any) -> None:
        kept["weights"] = [whole(p.detach()) for p in module.model.parameters()]
        if module.global_rank == 0:
            torch.save(kept, f"{name}.pt")

    patch.setattr(TrainingModule, "on_train_start", at_the_start)
    patch.setattr(TrainingModule, "on_before_optimizer_step", before_step)
    patch.setattr(TrainingModule, "on_train_end", at_the_end)


def run(name: str, *settings: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        keep(patch, name)
        main([*settings, f"hydra.run.dir={name}"])


def run_until_interrupted(name: str, *settings: str) -> None:
    on_end = LastCheckpoint.on_train_batch_end

    def asked(callback: Any, trainer: Any, *arguments: Any) -> None:
        callback._asked = signal.SIGINT if trainer.global_step == STOPPED_AT else 0
        on_end(callback, trainer, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LastCheckpoint, "on_train_batch_end", asked)
        with pytest.raises(SystemExit, match=_INTERRUPTED):
            main([*settings, f"hydra.run.dir={name}"])


def kill_in_second_save(*settings: str) -> None:
    """Rank 1 dies while it writes its part of the second checkpoint."""
    write = FileSystemWriter.write_data
    saves: list[None] = []

    def written(writer: Any, plan: Any, planner: Any) -> Any:
        saves.append(None)
        if len(saves) == 2 and torch.distributed.get_rank() == 1:
            Path(writer.path, "__1_0.distcp").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        return write(writer, plan, planner)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileSystemWriter, "write_data", written)
        main([*settings, *SHARDED, ACCUMULATED, "hydra.run.dir=killed"])


def run_as_a_rank(settings: list[str]) -> None:
    """All runs. The first run of two processes starts the other rank."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        run("one", *settings, ACCUMULATED)
        run("one-plain", *settings, PLAIN, UNTIED, TABLES)
        run("one-float8", *settings, ACCUMULATED, FLOAT8)
        run_until_interrupted("one-stopped", *settings, ACCUMULATED)
        shutil.copytree("one-stopped", "one-to-two")
        shutil.copytree("one-stopped", "one-to-float8")
    run("sharded", *settings, *SHARDED, ACCUMULATED)
    run("sharded-plain", *settings, *SHARDED, PLAIN, UNTIED, TABLES)
    run("sharded-float8", *settings, *SHARDED, ACCUMULATED, FLOAT8)
    run("copies", *settings, *COPIES, ACCUMULATED)
    run("copies-plain", *settings, *COPIES, PLAIN, UNTIED, TABLES)
    run_until_interrupted("sharded-stopped", *settings, *SHARDED, ACCUMULATED)
    torch.distributed.barrier()
    for name in ("two-to-one", "two-to-copies", "two-to-two") * (os.environ["LOCAL_RANK"] == "0"):
        shutil.copytree("sharded-stopped", name)
    torch.distributed.barrier()
    run("two-to-two", *settings, *SHARDED, ACCUMULATED, "resume=two-to-two")
    run("two-to-copies", *settings, *COPIES, ACCUMULATED, "resume=two-to-copies")
    run("one-to-two", *settings, *SHARDED, ACCUMULATED, "resume=one-to-two")
    run("one-to-float8", *settings, *SHARDED, ACCUMULATED, FLOAT8, "resume=one-to-float8")
    Path("reached-the-kill").touch()
    kill_in_second_save(*settings)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, small: list[str]) -> Path:
    """The folder in which one process and two have left their runs."""
    folder = tmp_path_factory.mktemp("shards")
    code, out = run_ranks(run_as_a_rank, [*small, *COMMON], folder, 240)
    assert (folder / "reached-the-kill").is_file(), out
    assert code != 0, out
    return folder


def error(found: list[Tensor], wanted: list[Tensor]) -> float:
    """Largest relative Frobenius error of a tensor."""
    return max(
        float(torch.linalg.norm(a - b) / torch.linalg.norm(b))
        for a, b in zip(found, wanted, strict=True)
    )


def losses(folder: Path) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open() as file:
        return [
            {k: float(row[k]) for k in ("step", "train/loss", "val/loss") if row.get(k)}
            for row in csv.DictReader(file)
        ]


@pytest.mark.parametrize(
    ("name", "of_one"),
    [
        *(("sharded", "one"), ("copies", "one")),
        *(("sharded-plain", "one-plain"), ("copies-plain", "one-plain")),
    ],
)
def test_shards_and_copies_train_as_one_process(runs: Path, name: str, of_one: str) -> None:
    found, wanted = (torch.load(runs / f"{run}.pt") for run in (name, of_one))
    assert all(map(torch.equal, found["initial"], wanted["initial"]))
    assert error(found["gradients"], wanted["gradients"]) <= 1e-6
    assert error(found["weights"], wanted["weights"]) <= 1e-6
    assert error(wanted["weights"], wanted["initial"]) > 1e-3, "it has not trained"
    for row, of_whole in zip(losses(runs / name), losses(runs / of_one), strict=True):
        assert row == pytest.approx(of_whole, rel=1e-5)


@pytest.mark.parametrize("name", ["two-to-two", "two-to-copies", "one-to-two"])
def test_either_goes_on_from_the_checkpoint_of_the_other(runs: Path, name: str) -> None:
    found, unbroken = (torch.load(runs / f"{run}.pt") for run in (name, "one"))
    assert error(found["weights"], unbroken["weights"]) <= 1e-6
    for row, of_unbroken in zip(losses(runs / name), losses(runs / "one"), strict=True):
        assert row == pytest.approx(of_unbroken, rel=1e-5)


def test_shards_gathered_in_float8_train_as_one_process_in_float8(runs: Path) -> None:
    found, wanted, plain = (
        torch.load(runs / f"{run}.pt") for run in ("sharded-float8", "one-float8", "one")
    )
    assert all(map(torch.equal, found["initial"], wanted["initial"]))
    assert error(found["gradients"], wanted["gradients"]) <= 1e-5
    assert error(found["gradients"], plain["gradients"]) > 1e-3, "nothing was rounded"
    for row, of_whole in zip(
        losses(runs / "sharded-float8"), losses(runs / "one-float8"), strict=True
    ):
        assert row == pytest.approx(of_whole, rel=1e-4)


def test_shards_in_float8_are_saved_as_all_others(
    runs: Path, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = packformer.load(runs / "sharded-float8")
    weights = torch.load(runs / "sharded-float8.pt")["weights"]
    assert all(map(torch.equal, [p.detach() for p in model.parameters()], weights))
    for row, of_whole in zip(losses(runs / "one-to-float8"), losses(runs / "one"), strict=True):
        assert row == pytest.approx(of_whole, rel=1e-2)
    monkeypatch.chdir(runs)
    shutil.copytree("sharded-float8", "float8-to-one")
    longer = f"trainer.max_steps={STEPS + 2}"
    alone = (*ALONE, "trainer.float8=false")
    run("float8-to-one", *small, *COMMON, *alone, ACCUMULATED, longer, "resume=float8-to-one")
    assert losses(runs / "float8-to-one")[-1]["step"] == STEPS + 2


def test_one_process_goes_on_from_shards(
    runs: Path, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    run("two-to-one", *small, *COMMON, *ALONE, ACCUMULATED, "resume=two-to-one")
    test_either_goes_on_from_the_checkpoint_of_the_other(runs, "two-to-one")


def test_a_rank_that_is_killed_while_it_saves_leaves_the_checkpoint_before(runs: Path) -> None:
    folder = runs / "killed" / "checkpoints"
    assert recorded_steps(folder / "last.ckpt") == (3, 3)
    assert len(list((folder / "shards").iterdir())) == 2, "the second has not begun"
    model, _ = packformer.load(folder / "last.ckpt")
    assert model.num_parameters() > 0


def test_shards_are_read_as_what_they_hold_and_only_those_in_use_are_kept(runs: Path) -> None:
    model, tokenizer = packformer.load(runs / "sharded")
    weights = torch.load(runs / "sharded.pt")["weights"]
    assert all(map(torch.equal, [p.detach() for p in model.parameters()], weights))
    assert tokenizer is not None
    checkpoints = runs / "sharded" / "checkpoints"
    used = {
        folder_of(file, torch.load(file, weights_only=True)) for file in checkpoints.glob("*.ckpt")
    }
    assert set((checkpoints / "shards").iterdir()) == used


def test_shards_are_exported(runs: Path, tmp_path: Path) -> None:
    packformer_command(["export", str(runs / "sharded"), str(tmp_path / "exported")])
    model, _ = packformer.load(tmp_path / "exported")
    weights = torch.load(runs / "sharded.pt")["weights"]
    assert all(map(torch.equal, [p.detach() for p in model.parameters()], weights))


def test_a_part_that_is_missing_or_damaged_is_one_line(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(runs / "sharded", tmp_path / "sharded")
    last = folder / "checkpoints" / "last.ckpt"
    part = folder_of(last, torch.load(last, weights_only=True)) / "__1_0.distcp"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    with pytest.raises(ValueError, match=r"last.ckpt is not whole, .*: its checksum is wrong$"):
        packformer.load(last)
    assert newest_whole(folder) == last.with_name("previous.ckpt"), "with parts of its own"
    part.unlink()
    missing = r"last.ckpt is not whole, .*__1_0.distcp: it is missing"
    with pytest.raises(ValueError, match=missing + "$"):  # best.ckpt is made of the same parts
        packformer.load(last)
    other = shutil.copytree(runs / "one" / "checkpoints", tmp_path / "one")
    shutil.copy(other / "best.ckpt", last.with_name("best.ckpt"))
    with pytest.raises(ValueError, match=missing + r"; .*best.ckpt is whole: resume="):
        packformer.load(last)
