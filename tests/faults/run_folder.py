"""What start, save, resume and end of a run do to its folder, with a fault at each operation.

As a script, ``run_folder.py --every N --seed S`` tries one fault in N, the first drawn from S, and
prints how many there were. Nothing trains: the functions that write are called as a run calls them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

sys.path.insert(0, str(Path(__file__).parent))

from faults import Fault, each, end_of, operations  # type: ignore[import-not-found]

import packformer.run.folder as folder_of_run
from packformer.run.curve import draw_loss_curve
from packformer.run.folder import remove_leftovers, write_records
from packformer.run.lock import lock_run
from packformer.run.metrics_file import csv_logger, read_metrics
from packformer.run.newest import newest_whole
from packformer.run.summary import write_summary
from packformer.training.checkpoint import AtomicCheckpointIO, resumable_step, why_damaged
from packformer.training.former import FormerCheckpoints

CONFIG, NEW_CONFIG = {"trainer": {"max_steps": 4}}, {"trainer": {"max_steps": 8}}
SAVED = (2, 4)  # steps of which the run has a checkpoint
CHECKPOINTS = {"last.ckpt", "previous.ckpt"}
FILES = {".lock", "config.yaml", "environment.json", "tokenizer.json", "metrics.csv", "checkpoints"}
ROOM = 400  # bytes, at most, that can still be written


def start(folder: Path) -> None:
    with lock_run(folder):
        _begin(folder, CONFIG, None)
        record(folder, None, range(1, 3))


def save(folder: Path) -> None:
    former = FormerCheckpoints(folder / "checkpoints" / "last.ckpt", 2, why_damaged)
    for step in (6, 8):
        save_step(folder, former, step)
    former.join()


def resume(folder: Path) -> None:
    with lock_run(folder):
        checkpoint = newest_whole(folder)
        _begin(folder, NEW_CONFIG, checkpoint)
        step = resumable_step(checkpoint)
        assert step is not None
        record(folder, checkpoint, range(step + 1, 9))


def end(folder: Path) -> None:
    draw_loss_curve(folder, "a run")
    write_summary({"steps": 4}, folder)


def _begin(folder: Path, config: dict[str, Any], checkpoint: Path | None) -> None:
    remove_leftovers(folder, [])
    write_records(folder, config, folder.parent / "tokenizer.json")


def record(folder: Path, checkpoint: Path | None, steps: range) -> None:
    logger = csv_logger(folder, checkpoint)
    for step in steps:
        logger.log_metrics({"train/loss": 1 / step}, step)
        if step % 2 == 0:
            logger.log_metrics({"val/loss": 2 / step}, step)


def save_step(folder: Path, former: FormerCheckpoints, step: int) -> None:
    checkpoint = {
        "packformer": {},
        "loops": {},
        "PackedDataModule": {"stream": {}},
        "global_step": step,
        "state_dict": {"weight": torch.full((200,), float(step))},
    }
    AtomicCheckpointIO().save_checkpoint(checkpoint, folder / "checkpoints" / "last.ckpt", former)


def run_in(folder: Path) -> None:
    """A run that was stopped after step 8, and saved step 4 last."""
    start(folder)
    former = FormerCheckpoints(folder / "checkpoints" / "last.ckpt", 2, why_damaged)
    for step in SAVED:
        save_step(folder, former, step)
    former.join()
    assert names(folder / "checkpoints") == CHECKPOINTS
    record(folder, None, range(1, 9))


def check(folder: Path, work: Callable[[Path], None]) -> None:
    """What is left is a run, and the next start goes on with it and tidies up."""
    if work is start:
        start(folder)
        assert _own(folder) == FILES - {"checkpoints"}
        assert _configuration(folder) == CONFIG
        assert _rows(folder) == _wanted(2)
        return
    assert _configuration(folder) in (CONFIG, NEW_CONFIG)
    step = resumable_step(newest_whole(folder))
    assert step in ((4, 6, 8) if work is save else (4,))
    assert _rows(folder)[: len(_wanted(4))] == _wanted(4)
    if (folder / "summary.json").exists():
        assert json.loads((folder / "summary.json").read_text()) == {"steps": 4}
    resume(folder)
    assert _configuration(folder) == NEW_CONFIG
    assert _rows(folder) == _wanted(8)
    assert _own(folder) - {"loss.png"} == FILES
    assert _is_kept(folder, CONFIG), "the former configuration"
    assert CHECKPOINTS >= names(folder / "checkpoints") >= {"last.ckpt"}
    for file in (folder / "checkpoints").iterdir():
        assert why_damaged(file) is None, file


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def _own(folder: Path) -> set[str]:
    """Without numbered copies of what was there before."""
    return {name for name in names(folder) if not re.search(r"-\d+\.", name)}


def _is_kept(folder: Path, config: dict[str, Any]) -> bool:
    return any(yaml.safe_load(file.read_text()) == config for file in folder.glob("config-*.yaml"))


def _configuration(folder: Path) -> Any:
    return yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))


def _rows(folder: Path) -> list[dict[str, float]]:
    return read_metrics(folder)


def _wanted(last: int) -> list[dict[str, float]]:
    rows = []
    for step in range(1, last + 1):
        rows.append({"step": float(step), "train/loss": 1 / step})
        if step % 2 == 0:
            rows.append({"step": float(step), "val/loss": 2 / step})
    return rows


def trials(work: Callable[[Path], None], place: Path, every: int, seed: int) -> Iterator[int]:
    """Tries ``work`` with faults, one after the other; yields how each ended."""
    template, folder = place / "template", place / "run"
    if not template.exists() and work is not start:
        run_in(template)

    def anew() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        if work is not start:
            shutil.copytree(template, folder)

    anew()
    listed = operations(lambda: work(folder), folder)
    draw = random.Random(seed)
    for operation, fault in each(listed, every=every, offset=draw.randrange(every)):
        anew()
        room = draw.choice([0, draw.randrange(ROOM)])
        code = end_of(lambda: work(folder), folder, operation, fault, room)
        assert code <= 0 or fault is Fault.FULL_DISK, f"{fault.value} {operation}: {code}"
        try:
            check(folder, work)
        except Exception as error:
            error.add_note(f"{work.__name__}, {fault.value} {operation}, {room} bytes of room")
            raise
        yield code


def main(every: int, seed: int) -> None:
    folder_of_run._git_revision = lambda: None  # a process each
    os.fsync = lambda handle: None  # kills of a process lose nothing that was not flushed
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        (place / "tokenizer.json").write_text("{}")
        for work in (start, save, resume, end):
            codes = list(trials(work, place, every, seed))
            killed = sum(code < 0 for code in codes)
            told = sum(code == 1 for code in codes)
            print(f"{work.__name__}: {len(codes)} faults, {killed} killed, {told} told, all whole")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    main(given.every, given.seed)
