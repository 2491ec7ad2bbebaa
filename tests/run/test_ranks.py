"""Two processes train as one does, and continue as if they had never stopped."""

from __future__ import annotations

import csv
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import yaml
from forks import run_ranks
from spared import spare

from packformer.command_line.main import main
from packformer.run.recorded import chosen
from packformer.run.resume import find_checkpoint
from packformer.training import LastCheckpoint, TrainingModule

STEPS, STOPPED_AT = 6, 4
SETTINGS = (
    "+experiment=gqa",
    "trainer.accelerator=cpu",
    f"trainer.max_steps={STEPS}",
    "trainer.validate_every_n_steps=3",
    "trainer.log_every_n_steps=2",  # so that the validation lies between two records
    "trainer.rows_per_step=4",
    "packing.row_length=128",
)
# Times and memory, and what several ranks tell of themselves.
_NOT_COMPARED = (
    "train/tokens_per_second",
    "train/tokens_per_second_per_device",
    "train/rank_wait",
    "data/wait",
    "data/imbalance",
    "memory/peak_process_bytes",
)
ROUNDED = "trainer.strategy={_target_:packformer.training.DDP,reduce_dtype:bfloat16}"
_INTERRUPTED = "130"  # how the process would end
BETWEEN_RECORDS = "{}/checkpoints/best.ckpt"  # of the validation after step 3


def keep(patch: pytest.MonkeyPatch, name: str) -> None:
    """Has a run write ``name-RANK.pt``: of each step its rank's number of counted tokens and the
    gradients before they are clipped, how much was broadcast before each row, and the weights at
    the end.
    """
    steps: dict[int, dict[str, Any]] = {}
    step = TrainingModule.training_step
    broadcast, sent = torch.distributed.broadcast, [0]

    def counting_sent(*arguments: Any, **options: Any) -> Any:
        sent[0] += 1
        return broadcast(*arguments, **options)

    def counting(module: Any, batch: Any, batch_idx: int) -> Any:
        seen = steps.setdefault(module.trainer.global_step + 1, {"targets": [], "sent": []})
        seen["targets"].append(batch.num_targets)
        seen["sent"].append(sent[0])
        return step(module, batch, batch_idx)

    def before_step(module: Any, optimizer: Any) -> None:
        gradients = [p.grad.clone() for p in module.model.parameters()]
        steps[module.trainer.global_step + 1]["gradients"] = gradients

    def at_the_end(module: Any) -> None:
        weights = [p.detach() for p in module.model.parameters()]
        torch.save({"steps": steps, "weights": weights}, f"{name}-{module.global_rank}.pt")

    patch.setattr(torch.distributed, "broadcast", counting_sent)
    patch.setattr(TrainingModule, "training_step", counting)
    patch.setattr(TrainingModule, "on_before_optimizer_step", before_step)
    patch.setattr(TrainingModule, "on_train_end", at_the_end)


def interrupt_one_rank(patch: pytest.MonkeyPatch) -> None:
    """Lets the last rank alone hear a signal, during a step after which no validation is due."""
    on_end = LastCheckpoint.on_train_batch_end

    def asked(callback: Any, trainer: Any, *arguments: Any) -> None:
        last = trainer.global_rank == trainer.world_size - 1
        callback._asked = signal.SIGINT if last and trainer.global_step == STOPPED_AT else 0
        on_end(callback, trainer, *arguments)

    patch.setattr(LastCheckpoint, "on_train_batch_end", asked)


def run_as_a_rank(settings: list[str]) -> None:
    """A whole run, one that is interrupted, its rest, and the rest of one that had one rank.

    The first run of rank 0 starts the other rank.
    """
    common = [*settings, "trainer.devices=2"]
    with pytest.MonkeyPatch.context() as patch:
        keep(patch, "whole")
        main([*common, "hydra.run.dir=whole"])
    with pytest.MonkeyPatch.context() as patch:
        interrupt_one_rank(patch)
        with pytest.raises(SystemExit, match=_INTERRUPTED):
            main([*common, "hydra.run.dir=stopped"])
    if os.environ.get("LOCAL_RANK", "0") == "0":
        shutil.copytree("stopped", "of_two")
    with pytest.MonkeyPatch.context() as patch:
        keep(patch, "resumed")
        main([*common, "hydra.run.dir=stopped", "resume=stopped"])
    main([*common, "hydra.run.dir=of_one", f"resume={BETWEEN_RECORDS.format('of_one')}"])
    with pytest.MonkeyPatch.context() as patch:
        keep(patch, "rounded")
        main([*common, ROUNDED, "trainer.max_steps=1", "hydra.run.dir=rounded"])
    torch.distributed.barrier()  # what the other rank writes is there when the first one ends


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory, small: list[str]) -> Path:
    """Where two processes have left ``{whole,resumed}-{0,1}.pt`` and their run folders."""
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        spare(patch)
        interrupt_one_rank(patch)
        with pytest.raises(SystemExit, match=_INTERRUPTED):
            main([*small, *SETTINGS, "hydra.run.dir=of_one"])
    code, out = run_ranks(run_as_a_rank, [*small, *SETTINGS], folder, 120)
    assert code == 0, out
    return folder


def records(folder: Path) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open() as file:
        return [
            {k: float(v) for k, v in row.items() if v and k not in _NOT_COMPARED}
            for row in csv.DictReader(file)
        ]


def error(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> float:
    """Largest relative Frobenius error of a tensor."""
    return max(
        float(torch.linalg.norm(a - b) / torch.linalg.norm(b))
        for a, b in zip(found, wanted, strict=True)
    )


def test_two_ranks_train_as_one_on_the_same_rows(
    train: Callable, small: list[str], tmp_path: Path, ranks: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        keep(patch, "one")
        done = train(*small, *SETTINGS, "hydra.run.dir=one")
    assert done.code == 0, done.err
    one = torch.load(tmp_path / "one-0.pt")
    zeroth, first = (torch.load(ranks / f"whole-{rank}.pt") for rank in (0, 1))
    for step in range(1, STEPS + 1):
        apart = [*zeroth["steps"][step]["targets"], *first["steps"][step]["targets"]]
        assert sorted(one["steps"][step]["targets"]) == sorted(apart)
        wanted = one["steps"][step]["gradients"]
        for rank in (zeroth, first):
            assert error(rank["steps"][step]["gradients"], wanted) <= 1e-5
    counted = [one["steps"][step]["targets"] for step in one["steps"]]
    assert any(len(set(of)) > 1 for of in counted), "equally many tokens weigh the same anyway"
    assert error(zeroth["weights"], one["weights"]) <= 1e-5
    assert all(map(torch.equal, zeroth["weights"], first["weights"]))
    found, wanted = records(ranks / "whole"), records(tmp_path / "one")
    assert len(found) == STEPS // 2 + 2
    for row, of_one in zip(found, wanted, strict=True):
        assert row == pytest.approx(of_one, rel=1e-5)


def test_several_ranks_tell_how_they_share_the_work(ranks: Path) -> None:
    for row in csv.DictReader((ranks / "whole" / "metrics.csv").read_text().splitlines()):
        if row["val/loss"]:
            continue
        rate = float(row["train/tokens_per_second"])
        assert float(row["train/tokens_per_second_per_device"]) == pytest.approx(rate / 2)
        assert 1 <= float(row["data/imbalance"]) < 2
        assert 0 < float(row["train/rank_wait"]) < 1


def test_no_rank_waits_for_another_before_a_row(ranks: Path) -> None:
    for rank in (0, 1):
        steps = torch.load(ranks / f"whole-{rank}.pt")["steps"]
        before_rows = [steps[step]["sent"] for step in (1, 2, 3)]  # then comes the validation
        assert len({sent for step in before_rows for sent in step}) == 1, before_rows


def test_two_ranks_that_were_interrupted_go_on_exactly(ranks: Path) -> None:
    for rank in (0, 1):
        whole, resumed = (torch.load(ranks / f"{name}-{rank}.pt") for name in ("whole", "resumed"))
        assert list(resumed["steps"]) == list(range(STOPPED_AT + 1, STEPS + 1))
        for step, seen in resumed["steps"].items():
            assert seen["targets"] == whole["steps"][step]["targets"]
            assert all(map(torch.equal, seen["gradients"], whole["steps"][step]["gradients"]))
        assert all(map(torch.equal, resumed["weights"], whole["weights"]))
    assert records(ranks / "stopped") == records(ranks / "whole")


@pytest.mark.parametrize("folder", ["of_one", "of_two"])
def test_another_number_of_ranks_goes_on_with_the_same_steps(
    folder: str,
    train: Callable,
    small: list[str],
    ranks: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """From between two records, so that what was added up since the last one counts once."""
    if folder == "of_two":
        where = (
            f"hydra.run.dir={ranks / folder}",
            f"resume={ranks / BETWEEN_RECORDS.format(folder)}",
            "trainer.devices=1",
        )
        done = train(*small, *SETTINGS, *where)
        assert done.code == 0, done.err
        assert {"resumed  after step 3", "changed  trainer.devices: 2 -> 1"} <= {*caplog.messages}
    found, wanted = records(ranks / folder), records(ranks / "whole")
    assert len(found) == len(wanted)
    for row, of_two in zip(found, wanted, strict=True):
        assert row == pytest.approx(of_two, rel=1e-5)


def test_the_rows_of_a_step_may_lie_on_more_devices(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    assert train(*small, "hydra.run.dir=runs/a").code == 0
    folder = tmp_path / "runs" / "a"
    (folder / "summary.json").unlink()  # as if it had been killed
    config = chosen(yaml.safe_load((folder / "config.yaml").read_text()))
    found = find_checkpoint("auto", tmp_path / "runs", config)
    assert found == folder / "checkpoints" / "last.ckpt"
    trainer = {**config["trainer"], "devices": 2, "accumulate_grad_batches": 2}
    for rows, there in ((1, found), (2, None)):  # of a step, on more devices
        of_two = {**config, "trainer": {**trainer, "rows_per_step": rows}}
        assert find_checkpoint("auto", tmp_path / "runs", of_two) == there


def test_gradients_may_be_summed_in_bfloat16(ranks: Path) -> None:
    rounded, exact = (
        torch.load(ranks / f"{name}-0.pt")["steps"][1]["gradients"] for name in ("rounded", "whole")
    )
    assert 1e-4 < error(rounded, exact) < 2**-7, "the unit roundoff of bfloat16 is 2^-9"


def test_a_strategy_of_several_devices_runs_on_one(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    own = (
        "trainer=ddp",
        "trainer.strategy.reduce_dtype=bfloat16",
        "trainer.devices=1",
        "trainer.accelerator=cpu",
    )
    # The run sets variables, which processes that later tests start would take for their own.
    with mock.patch.dict(os.environ):
        for name in ("NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
            os.environ.pop(name, None)
        try:
            assert train(*small, *own, "trainer.max_steps=1").code == 0
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
    (folder,) = (tmp_path / "runs").iterdir()
    assert (folder / "checkpoints" / "last.ckpt").is_file()
