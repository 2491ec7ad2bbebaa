"""Two nodes of two devices each train as one process does, here on one machine."""

from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

SETTINGS = (
    "+experiment=gqa",
    "trainer.accelerator=cpu",
    "trainer.max_steps=6",
    "trainer.log_every_n_steps=1",
    "trainer.validate_every_n_steps=6",
    "trainer.rows_per_step=12",
    "loader.validation_rows=3",  # fewer than there are ranks
    "packing.row_length=128",
    "callbacks.samples=null",
)
NODES, DEVICES = 2, 2
HYBRID = "{_target_:packformer.training.FSDP2,replicate_over_nodes:true}"


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def run_on_nodes(folder: Path, settings: list[str]) -> None:
    """One torchrun per node, all ranks in one group of processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run"]
    launcher += [f"--nnodes={NODES}", f"--nproc-per-node={DEVICES}", "--rdzv-backend=c10d"]
    launcher += [f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--local-addr=127.0.0.1"]
    command = [*launcher, "-m", "train", *settings]
    nodes = []
    try:
        for _ in range(NODES):
            group = nodes[0].pid if nodes else 0
            nodes.append(
                subprocess.Popen(
                    command,
                    cwd=folder,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    process_group=group,
                )
            )
        told = [node.communicate(timeout=240)[0] for node in nodes]
    finally:
        if nodes:
            with suppress(ProcessLookupError):
                os.killpg(nodes[0].pid, signal.SIGKILL)
    assert [node.returncode for node in nodes] == [0] * NODES, "\n".join(told)


def losses(folder: Path) -> list[float]:
    with (folder / "metrics.csv").open() as file:
        rows = [*csv.DictReader(file)]
    return [float(row[name]) for row in rows for name in ("train/loss", "val/loss") if row[name]]


def test_copies_of_the_model_on_each_node_in_shards_over_its_devices(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    done = train(*small, *SETTINGS, "hydra.run.dir=one")
    assert done.code == 0, done.err
    devices = [f"trainer.num_nodes={NODES}", f"trainer.devices={DEVICES}"]
    where = [f"trainer.strategy={HYBRID}", f"hydra.run.dir={tmp_path / 'many'}"]
    run_on_nodes(tmp_path, [*small, *SETTINGS, *devices, *where])
    found, wanted = losses(tmp_path / "many"), losses(tmp_path / "one")
    assert len(wanted) == 7
    assert found == pytest.approx(wanted, rel=1e-6)
    assert (tmp_path / "many" / "checkpoints" / "shards").is_dir()
