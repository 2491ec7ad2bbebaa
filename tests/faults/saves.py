"""Kills while a checkpoint is saved, in the folder for temporary files and on another file system.

As a script, ``saves.py --trials N --seed S`` makes N trials in each place. A trial kills a process
at a random moment of its third save, and counts if what is left opens, is of one step, and if the
next start leaves nothing else behind.
"""

from __future__ import annotations

import argparse
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from packformer.run.folder import remove_leftovers
from packformer.run.newest import newest_whole
from packformer.training.checkpoint import AtomicCheckpointIO, why_damaged
from packformer.training.former import FormerCheckpoints

TENSORS, SIZE = 8, 2**18
KILLED = 3  # the save, so that all names are taken before


def checkpoint_of(step: int) -> dict[str, Any]:
    """One whose numbers are all those of ``step``."""
    return {
        "packformer": {},
        "loops": {},
        "PackedDataModule": {"stream": {}},
        "global_step": step,
        "state_dict": {f"model.{n}": torch.full((SIZE,), float(step)) for n in range(TENSORS)},
    }


def save(folder: Path, former: FormerCheckpoints, step: int) -> None:
    """All of it, until it has been read back."""
    last = folder / "checkpoints" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(checkpoint_of(step), last, former)
    former.join()


def former_in(folder: Path) -> FormerCheckpoints:
    return FormerCheckpoints(folder / "checkpoints" / "last.ckpt", 2, why_damaged)


def be_killed(folder: Path, writer: int) -> None:
    """Saves; tells through ``writer`` when the save begins in which it is killed, and its end."""
    former = former_in(folder)
    for step in range(1, KILLED):
        save(folder, former, step)
    os.write(writer, b"b")
    save(folder, former, KILLED)
    os.write(writer, b"e")


def kill_within(folder: Path, share: float, seconds: float) -> bool:
    """Kills a process in its save; whether it had begun and not ended.

    Args:
        folder: of the run.
        share: of the save, after which it is killed.
        seconds: that a save takes.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            be_killed(folder, writer)
        finally:
            os._exit(1)
    os.close(writer)
    try:
        assert os.read(reader, 1) == b"b", "the process failed before its save"
        time.sleep(share * seconds)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return not (select.select([reader], [], [], 0)[0] and os.read(reader, 1))
    finally:
        os.close(reader)


def wrong(folder: Path) -> str:
    """What is not as it should be after the kill and after the next start; nothing if all is."""
    checkpoint = AtomicCheckpointIO().load_checkpoint(newest_whole(folder), weights_only=True)
    step = checkpoint["global_step"]
    if step not in (KILLED - 1, KILLED):
        return f"step {step} is the newest"
    if any((tensor != step).any() for tensor in checkpoint["state_dict"].values()):
        return f"numbers of another step than {step}"
    remove_leftovers(folder, [])
    save(folder, former_in(folder), KILLED + 1)
    files = sorted((folder / "checkpoints").iterdir())
    if [file.name for file in files] != ["last.ckpt", "previous.ckpt"]:
        return f"left behind: {[file.name for file in files]}"
    damaged = {file.name: reason for file in files if (reason := why_damaged(file))}
    return f"damaged: {damaged}" if damaged else ""


def seconds_of_save(folder: Path) -> float:
    former = former_in(folder)
    save(folder, former, 1)
    began = time.perf_counter()
    save(folder, former, 2)
    return time.perf_counter() - began


def trials(place: Path, number: int, seed: int) -> int:
    """Makes so many whose kill falls into the save; returns how many left what they should."""
    draw = random.Random(seed)
    seconds = seconds_of_save(place / "timed")
    done = right = 0
    while done < number:
        folder = place / "run"
        if kill_within(folder, share := draw.random(), seconds):
            done += 1
            problem = wrong(folder)
            right += not problem
            if problem:
                print(f"killed after {share:.2f} of the save: {problem}", flush=True)
        shutil.rmtree(folder)
    return right


def places() -> dict[str, Path]:
    """Where checkpoints are saved, by name."""
    temporary, memory = Path(tempfile.gettempdir()), Path("/dev/shm")
    found = {"same file system": temporary}
    if memory.is_dir() and memory.stat().st_dev != temporary.stat().st_dev:
        found["another file system"] = memory
    return found


def main(number: int, seed: int) -> int:
    failed = False
    for name, parent in places().items():
        with tempfile.TemporaryDirectory(dir=parent) as made:
            right = trials(Path(made), number, seed)
        print(f"kills in a save, {name}: {right} of {number} (seed {seed})", flush=True)
        failed |= right < number
    return int(failed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)  # threads do not outlive a fork
    sys.exit(main(given.trials, given.seed))
