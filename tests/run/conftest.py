"""What runs have left behind."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch

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
