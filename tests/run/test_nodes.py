"""Two nodes of two devices each train as one process does, here on one machine."""

from __future__ import annotations

import csv
import os
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryFile

import pytest
from forks import Forked
from spared import spare
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from packformer.command_line.main import main

SETTINGS = (
    "+experiment=gqa",
    "trainer.accelerator=cpu",
    "trainer.max_steps=3",
    "trainer.log_every_n_steps=1",
    "trainer.validate_every_n_steps=3",
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


def be_a_node(port: int, settings: list[str]) -> None:
    """As ``torchrun`` on one node, whose ranks are forked: they import nothing."""
    config = LaunchConfig(
        min_nodes=NODES,
        max_nodes=NODES,
        nproc_per_node=DEVICES,
        run_id="nodes",
        rdzv_backend="c10d",
        rdzv_endpoint=f"127.0.0.1:{port}",
        local_addr="127.0.0.1",
        max_restarts=0,
        start_method="fork",
    )
    with pytest.MonkeyPatch.context() as patch:
        spare(patch)
        elastic_launch(config, main)(settings)


def run_on_nodes(folder: Path, settings: list[str]) -> None:
    port = free_port()
    with ExitStack() as open_files:
        out = [open_files.enter_context(TemporaryFile()) for _ in range(NODES)]
        nodes = [
            Forked(be_a_node, port, settings, cwd=folder, output=file.fileno()) for file in out
        ]
        try:
            codes = [node.wait(240) for node in nodes]
        finally:
            for node in nodes:
                with suppress(ProcessLookupError):
                    os.killpg(node.pid, signal.SIGKILL)
        for file in out:
            file.seek(0)
        assert codes == [0] * NODES, b"\n".join(file.read() for file in out).decode()


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
    assert len(wanted) == 4
    assert found == pytest.approx(wanted, rel=1e-6)
    assert (tmp_path / "many" / "checkpoints" / "shards").is_dir()
