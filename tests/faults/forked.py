"""Runs of ``python -m train`` in forked processes: their imports are those of this one."""

from __future__ import annotations

import csv
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads do not outlive a fork

import torch

import packformer.run.curve
import packformer.run.train  # noqa: F401
from packformer.command_line.main import main
from packformer.run.newest import newest_whole

_TIMES = ("train/tokens_per_second", "data/wait", "memory/peak_process_bytes")
_STATE = ("state_dict", "optimizer_states", "lr_schedulers", "PackedDataModule", "global_step")


def begin(folder: Path, *settings: str) -> int:
    """Starts a run in a process group of its own; returns its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        with Path("output.txt").open("a") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        sys.argv = ["train", *settings]
        main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(process: int, seconds: float) -> int | None:
    """The exit code, negative for a signal; None if it takes longer."""
    end = time.monotonic() + seconds
    while True:
        pid, status = os.waitpid(process, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return None
        time.sleep(0.005)


def records(folder: Path) -> list[dict[str, str]]:
    """Rows of ``metrics.csv``, without what depends on time."""
    with (folder / "metrics.csv").open() as stream:
        return [{k: v for k, v in row.items() if k not in _TIMES} for row in csv.DictReader(stream)]


def state(folder: Path) -> dict[str, Any]:
    """What the run saved last, without what depends on time and place.

    After a kill between the last saves of ``best.ckpt`` and ``last.ckpt`` the former is the newest.
    """
    saved = torch.load(newest_whole(folder), weights_only=True)
    return {name: saved[name] for name in _STATE}


def difference(one: Any, other: Any, place: str = "") -> str:
    """Where two states are not equal, tensors bit for bit; nothing if they are."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return "" if torch.equal(one, other) else place
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        pairs = [(key, one[key], other[key]) for key in one]
    elif isinstance(one, list | tuple) and len(one) == len(other):
        pairs = [(at, *pair) for at, pair in enumerate(zip(one, other, strict=True))]
    else:
        return "" if one == other else f"{place}: {str(one)[:60]}, {str(other)[:60]}"
    return next(filter(None, (difference(x, y, f"{place}.{key}") for key, x, y in pairs)), "")


def finished(output_dir: Path) -> list[Path]:
    """Folders of the runs that finished."""
    return [file.parent for file in output_dir.glob("*/summary.json")]
