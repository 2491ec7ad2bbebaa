"""``packformer bench devices``."""

from __future__ import annotations

import argparse
from pathlib import Path

from packformer.tools.help_format import HelpFormatter


def add_to(commands: argparse._SubParsersAction) -> None:
    """Adds the command, with its arguments."""
    parser = commands.add_parser(
        "devices",
        help="a preset on one device and on several",
        description="Tokens per second of `python -m train` on each number of devices, beside the "
        "first. Each run is a process of its own, on random documents; their rates are medians "
        "over the records after the first one.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("preset", nargs="?", default="gqa", help="an experiment, such as gpt_124m")
    parser.add_argument(
        "overrides",
        nargs="*",
        help="settings as of `python -m train`; data=random unless data=... is among them",
    )
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2], help="numbers of devices")
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[1, 16], help="rows of a step, per device"
    )
    parser.add_argument(
        "--records", type=int, default=6, help="records of each run; the first is left out"
    )
    parser.add_argument(
        "--rows-per-record", type=int, default=32, help="rows of a record, per device, at least"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="folder for the CSV and the runs (default: devices, or devices-2, ...)",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from packformer.tools.bench.devices.bench import DevicesBench, run_devices_bench
    from packformer.tools.output_folder import output_folder

    with output_folder(options.output, "devices") as folder:
        run_devices_bench(
            DevicesBench(
                preset=options.preset,
                overrides=tuple(options.overrides),
                devices=tuple(options.devices),
                rows=tuple(options.rows),
                records=options.records,
                rows_per_record=options.rows_per_record,
            ),
            folder,
        )
