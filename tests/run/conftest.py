"""What runs have left behind."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from packformer.training import LastCheckpoint

INTERRUPTED = 130
_TIMES = ("train/tokens_per_second", "data/wait", "memory/peak_process_bytes")


def rows_in(output_dir: Path) -> list[dict[str, str]]:
    (folder,) = {file.parent for file in output_dir.glob("*/metrics.csv")}
    return rows_of(folder)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as stream:
        return [
            {name: value for name, value in row.items() if name not in _TIMES}
            for row in csv.DictReader(stream)
        ]


def weights_in(output_dir: Path) -> dict[str, Any]:
    (file,) = output_dir.glob("*/checkpoints/last.ckpt")
    return torch.load(file, weights_only=True)["state_dict"]


def assert_equal_weights(one: Path, other: Path) -> None:
    """Of the only run in each of two folders, bit for bit."""
    found, wanted = weights_in(one), weights_in(other)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(value, found[name]), name


@contextmanager
def stopped_after(step: int) -> Iterator[None]:
    """Runs within it are interrupted after ``step``, as by Ctrl-C."""
    on_end = LastCheckpoint.on_train_batch_end

    def interrupted(self: Any, trainer: Any, *arguments: Any) -> None:
        self._asked = signal.SIGINT if trainer.global_step == step else 0
        on_end(self, trainer, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LastCheckpoint, "on_train_batch_end", interrupted)
        yield


@pytest.fixture(scope="session")
def as_ranks() -> Callable[..., tuple[int, str]]:
    """Runs a file as rank 0, which starts the others, and ends all of them.

    Called with the file, the folder to run in, its arguments and the seconds it may take; returns
    rank 0's code and what was printed.
    """

    def run(file: str, folder: Path, arguments: list[str], seconds: float) -> tuple[int, str]:
        where_spared_is = str(Path(__file__).parents[1])
        paths = [where_spared_is, *filter(None, [os.environ.get("PYTHONPATH")])]
        with subprocess.Popen(
            [sys.executable, str(Path(file).resolve()), *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # all ranks are one group
        ) as process:
            try:
                out, _ = process.communicate(timeout=seconds)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        return process.returncode, out

    return run
