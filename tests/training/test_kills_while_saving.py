"""Whichever rank is killed, and whenever, while a checkpoint in shards is written: one opens.

As a script, ``test_kills_while_saving.py TRIALS`` makes as many trials. Both ranks of a trial are
forked from it, which saves their imports.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from forks import run
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from packformer.ranks.ending import is_lost_connection
from packformer.training.checkpoint import AtomicCheckpointIO
from packformer.training.sharded_saves import ShardedSaves

RANKS, SAVES, KILLED_SAVE = 2, 3, 2
SLOW = 0.1  # seconds that parts of a save take longer, so that kills fall into each of them
WINDOW = 4 * SLOW
SHAPE = (64, 32)


def checkpoint_of(step: int, mesh: DeviceMesh) -> dict[str, Any]:
    """One whose numbers are all those of ``step``."""

    def tensor() -> torch.Tensor:
        full = torch.full(SHAPE, float(step))
        return distribute_tensor(full, mesh, [Shard(0)], src_data_rank=None)

    return {
        "global_step": step,
        "state_dict": {f"model.{name}": tensor() for name in range(4)},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(step), "exp_avg": tensor()}}}],
    }


def write_slowly() -> None:
    write, finish = FileSystemWriter.write_data, ShardedSaves._finish

    def slow_write(*arguments: Any) -> Any:
        time.sleep(SLOW)
        written = write(*arguments)
        time.sleep(SLOW)
        return written

    def slow_finish(*arguments: Any) -> None:
        time.sleep(SLOW)
        finish(*arguments)
        time.sleep(SLOW)

    FileSystemWriter.write_data = slow_write  # type: ignore[method-assign]
    ShardedSaves._finish = slow_finish  # type: ignore[method-assign]


def be_a_rank(rank: int, folder: Path, dies_after: float | None) -> None:
    """Saves, one step after the other; dies ``dies_after`` seconds into the second save."""
    place = f"file://{folder}/ranks"
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=RANKS)
    mesh = init_device_mesh("cpu", (RANKS,))
    group = dist.new_group(backend="gloo")
    assert group is not None
    saves = ShardedSaves(group, on_gpu=False)
    for step in range(1, SAVES + 1):
        checkpoint = checkpoint_of(step, mesh)
        if step == KILLED_SAVE and dies_after is not None:
            saves.wait()
            kill = [os.getpid(), signal.SIGKILL]
            threading.Timer(dies_after, os.kill, kill).start()
        saves.save(checkpoint, folder / "last.ckpt", f"{step}-test")
    saves.wait()
    time.sleep(WINDOW)


def trial(number: int, folder: Path) -> tuple[int, float, int]:
    """The rank that was killed, after how many seconds, and the step that the checkpoint is of."""
    victim, after = number % RANKS, random.Random(number).uniform(0, WINDOW)
    ranks = []
    for rank in range(RANKS):
        child = os.fork()
        if child == 0:
            try:
                be_a_rank(rank, folder, after if rank == victim else None)
            finally:
                os._exit(1)
        ranks.append(child)
    _, status = os.waitpid(ranks[victim], 0)
    time.sleep(2 * SLOW)  # what the other rank would still write, it may
    for rank in set(ranks) - {ranks[victim]}:
        os.kill(rank, signal.SIGKILL)
        os.waitpid(rank, 0)
    assert os.WIFSIGNALED(status), f"rank {victim} was not killed"
    return victim, after, step_of(folder / "last.ckpt")


def step_of(file: Path) -> int:
    """Reads all of the checkpoint, and checks that everything in it is of one step."""
    read = AtomicCheckpointIO().load_checkpoint(file, weights_only=True)
    step: int = read["global_step"]
    state = read["optimizer_states"][0]["state"][0]
    assert len(read["state_dict"]) == 4
    for tensor in (*read["state_dict"].values(), state["exp_avg"]):
        assert torch.equal(tensor, torch.full(SHAPE, float(step)))
    assert int(state["step"]) == step
    return step


def trials(many: int) -> None:
    write_slowly()
    for number in range(many):
        with tempfile.TemporaryDirectory() as made:
            victim, after, step = trial(number, Path(made))
        assert step in (KILLED_SAVE - 1, KILLED_SAVE)
        print(f"rank {victim}, {after:.2f} s into save {KILLED_SAVE}: that of step {step} opens")


def test_a_checkpoint_opens_after_a_kill_in_an_asynchronous_save(tmp_path: Path) -> None:
    code, out = run(trials, 4, cwd=tmp_path, timeout=240)
    assert code == 0, out
    assert out.count(" opens") == 4, out


def loses_a_rank(folder: Path) -> None:
    """Prints what ends rank 0 when rank 1 is killed while both write."""
    if os.fork() == 0:

        def killed(*_: Any) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        FileSystemWriter.write_data = killed  # type: ignore[method-assign]
        be_a_rank(1, folder, None)
    try:
        be_a_rank(0, folder, None)
    except Exception as error:
        print(f"{is_lost_connection(error)}: {error}")


def test_a_rank_that_is_killed_in_a_save_is_lost_and_the_disk_is_not_blamed(tmp_path: Path) -> None:
    code, out = run(loses_a_rank, tmp_path, cwd=tmp_path, timeout=60)
    assert code == 0, out
    assert f"True: cannot write {tmp_path}/last.ckpt: another rank has ended\n" in out


if __name__ == "__main__":
    trials(int(sys.argv[1]))
