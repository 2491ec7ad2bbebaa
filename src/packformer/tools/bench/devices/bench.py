"""``packformer bench devices``: whole runs on one device and on several."""

from __future__ import annotations

import csv
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.table import Table

from packformer.command_line.composition import compose
from packformer.tools.bench.step.measure import shown, write_csv

_LONGEST_REASON = 120  # characters


@dataclass(frozen=True)
class DevicesBench:
    """What is measured.

    Attributes:
        preset: an experiment.
        overrides: of its settings.
        devices: numbers of them; the first is what the others are compared with.
        rows: of a step, per device.
        records: of a run; the first pays for compilation and is left out.
        rows_per_record: per device, at least.

    Raises:
        ValueError: if nothing would be measured.
    """

    preset: str
    overrides: tuple[str, ...] = ()
    devices: tuple[int, ...] = (1, 2)
    rows: tuple[int, ...] = (1, 16)
    records: int = 6
    rows_per_record: int = 32

    def __post_init__(self) -> None:
        if self.records < 2:
            raise ValueError(
                f"--records ({self.records}) must be at least 2: the first is no measure"
            )
        for name, numbers in (
            ("--devices", self.devices),
            ("--rows", self.rows),
            ("--rows-per-record", (self.rows_per_record,)),
        ):
            if min(numbers) < 1:
                raise ValueError(f"{name} ({min(numbers)}) must be at least 1")


@dataclass(frozen=True)
class Run:
    """What one run showed.

    Attributes:
        rows: of a step, per device.
        devices: of the run.
        tokens_per_second: over all devices, median.
        ratio: of that to the first number of devices with as many rows.
        utilisation: flops that the documents need, by those of all devices; None if not known.
        rank_wait: share of the time spent waiting for the others' gradients; None on one device.
        imbalance: attention's work on the busiest device over the mean; None on one.
        peak_gib: GPU memory of rank 0 at most, GiB; None on CPUs.
        left_out: why it was not measured; empty if it was.
    """

    rows: int
    devices: int
    tokens_per_second: float | None = None
    ratio: float | None = None
    utilisation: float | None = None
    rank_wait: float | None = None
    imbalance: float | None = None
    peak_gib: float | None = None
    left_out: str = ""


def run_devices_bench(bench: DevicesBench, folder: Path) -> None:
    """Measures, prints, and writes ``devices.csv`` beside the folders of the runs.

    The file is whole after every run: one that hangs, and is ended, costs none of the others.
    """
    _check_settings(bench, folder)
    runs: list[Run] = []
    for run in _measure(bench, folder):
        runs.append(run)
        write_csv(runs, folder / "devices.csv")
    _print(runs, bench)
    Console(width=150).print(f"written to {folder}", soft_wrap=True, markup=False)


def _check_settings(bench: DevicesBench, folder: Path) -> None:
    """Refuses what every run would refuse."""
    _, _, _, *words = command(bench, folder, bench.rows[0], bench.devices[0])
    compose([word for word in words if not word.startswith("hydra.")])


def _measure(bench: DevicesBench, folder: Path) -> Iterator[Run]:
    for rows in bench.rows:
        first: float | None = None
        for devices in bench.devices:
            run = _run(bench, folder, rows, devices, first)
            first = first or run.tokens_per_second
            yield run


def _run(bench: DevicesBench, folder: Path, rows: int, devices: int, first: float | None) -> Run:
    Console(stderr=True).print(
        f"measuring {devices} x {rows} rows a step", highlight=False, soft_wrap=True
    )
    own = folder / f"{devices}x{rows}"
    log = folder / f"{own.name}.log"
    with log.open("w", encoding="utf-8") as stream:
        code = _finish(command(bench, own, rows, devices), stream)
    if code:
        told = log.read_text(encoding="utf-8").strip() or f"code {code}"
        return Run(rows, devices, left_out=told.splitlines()[-1][:_LONGEST_REASON])
    records = _records(own / "metrics.csv")
    rate = _median(records, "train/tokens_per_second")
    peak = _median(records, "memory/peak_gpu_bytes")
    return Run(
        rows,
        devices,
        tokens_per_second=rate,
        ratio=rate / first if rate and first else None,
        utilisation=_median(records, "train/model_flops_utilisation"),
        rank_wait=_median(records, "train/rank_wait"),
        imbalance=_median(records, "data/imbalance"),
        peak_gib=peak / 2**30 if peak else None,
    )


def _finish(arguments: Sequence[str], log: TextIO) -> int:
    """The return code. The run ends with this process: left alone, it would slow the next one."""
    with subprocess.Popen(arguments, stdout=log, stderr=log) as process:
        former = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        try:
            return process.wait()
        finally:
            signal.signal(signal.SIGTERM, former)
            process.terminate()


def command(bench: DevicesBench, folder: Path, rows: int, devices: int) -> list[str]:
    """The command line of one run."""
    steps_per_record = -(-bench.rows_per_record // rows)
    steps = bench.records * steps_per_record
    given = [override.lstrip("+").partition("=")[0] for override in bench.overrides]
    return [
        *(sys.executable, "-m", "train", f"+experiment={bench.preset}"),
        *(["data=random"] if "data" not in given else []),
        *(["callbacks.last_checkpoint=null"] if "callbacks.last_checkpoint" not in given else []),
        *("callbacks.checkpoint=null", "callbacks.samples=null", "logger=csv"),
        f"trainer.devices={devices}",
        f"trainer.rows_per_step={rows * devices}",
        f"trainer.max_steps={steps}",
        f"trainer.log_every_n_steps={steps_per_record}",
        f"trainer.validate_every_n_steps={steps}",
        f"loader.validation_rows={devices}",
        f"hydra.run.dir={folder}",
        *bench.overrides,
    ]


def _records(file: Path) -> list[dict[str, str]]:
    """Of training, but the first."""
    with file.open(encoding="utf-8") as stream:
        found = [row for row in csv.DictReader(stream) if row.get("train/tokens_per_second")]
    return found[1:]


def _median(records: Sequence[dict[str, str]], name: str) -> float | None:
    values = [float(row[name]) for row in records if row.get(name)]
    return statistics.median(values) if values else None


def _print(runs: Sequence[Run], bench: DevicesBench) -> None:
    table = Table(title=f"{bench.preset} {' '.join(bench.overrides)}", title_justify="left")
    for column in (
        *("rows a step, per device", "devices", "tokens/s", "ratio", "MFU"),
        *("waiting for others", "imbalance", "peak GiB"),
    ):
        table.add_column(column, justify="right")
    table.add_column("left out", overflow="fold")
    for run in runs:
        table.add_row(
            str(run.rows),
            str(run.devices),
            shown(run.tokens_per_second, ",.0f"),
            shown(run.ratio, ".3f"),
            shown(run.utilisation, ".1%"),
            shown(run.rank_wait, ".1%"),
            shown(run.imbalance, ".3f"),
            shown(run.peak_gib, ".2f"),
            run.left_out,
        )
    Console(width=150).print(table)
