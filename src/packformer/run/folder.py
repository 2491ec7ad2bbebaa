"""What a run folder holds besides checkpoints: configuration, environment, metrics, picture."""

from __future__ import annotations

import csv
import json
import platform
import subprocess
import sys
import warnings
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only

import packformer
from packformer.run.own_tokenizer import keep_tokenizer
from packformer.run.resume import CONFIG_FILE, ENVIRONMENT_FILE, SUMMARY_FILE
from packformer.training.checkpoint import recorded_steps

_PACKAGES = (
    "torch",
    "torchao",
    "lightning",
    "xformers",
    "hydra-core",
    "torchmetrics",
    "wandb",
    "tokenizers",
    "numpy",
)


@rank_zero_only
def write_records(folder: Path, config: dict[str, Any], tokenizer: Path | None = None) -> None:
    """Writes configuration, environment and tokenizer; what a resumed run had is kept.

    Its summary is set aside, because the run is no longer finished.

    Args:
        folder: of the run.
        config: resolved.
        tokenizer: the ``tokenizer.json`` of its text; None if it has none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG_FILE, ENVIRONMENT_FILE, SUMMARY_FILE):
        _set_aside(folder / name)
    unfinished = folder / f".{CONFIG_FILE}"
    unfinished.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    unfinished.replace(folder / CONFIG_FILE)
    environment = _environment()
    if tokenizer is not None:
        environment |= keep_tokenizer(tokenizer, folder)
    (folder / ENVIRONMENT_FILE).write_text(
        json.dumps(environment, indent=2) + "\n", encoding="utf-8"
    )


def _set_aside(file: Path) -> None:
    if file.exists():
        number = len(list(file.parent.glob(f"{file.stem}-*{file.suffix}"))) + 1
        file.rename(file.with_stem(f"{file.stem}-{number}"))


def _environment() -> dict[str, Any]:
    versions: dict[str, str | None] = {
        "python": platform.python_version(),
        "packformer": packformer.__version__,
    }
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": _command(),
        "git_revision": _git_revision(),
        "platform": platform.platform(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": versions,
    }


def _command() -> list[str]:
    start = ["packformer"] if sys.argv[1:2] == ["train"] else ["python", "-m", "train"]
    return [*start, *sys.argv[1:]]


def _git_revision() -> str | None:
    """Revision of packformer's own checkout, ``-dirty`` with local changes; None if installed."""
    source = Path(packformer.__file__).parent
    command = [
        "git",
        "-C",
        str(source),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def csv_logger(folder: Path, checkpoint: Path | None) -> CSVLogger:
    """Logger of ``metrics.csv``; on a resume it keeps the rows that the checkpoint knows of.

    Later rows are dropped, because those steps are run again; so is a validation that the
    checkpoint was saved before. Lightning's own logger deletes an earlier run's file.
    """
    file = folder / "metrics.csv"
    kept: list[dict[str, str]] = []
    if checkpoint is not None and file.is_file():
        recorded = recorded_steps(checkpoint)
        with file.open(newline="") as stream:
            rows = [row for row in csv.DictReader(stream) if _is_whole(row)]
        kept = [row for row in rows if int(row["step"]) <= recorded[bool(row.get("val/loss"))]]
    backup = folder / ".metrics.csv"
    if kept:
        with backup.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(kept[0]))
            writer.writeheader()
            writer.writerows(kept)
    logger = CSVLogger(save_dir=folder, name="", version="", flush_logs_every_n_steps=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Experiment logs directory")
        writer_of_logger = logger.experiment
    if kept:
        backup.replace(file)
        writer_of_logger.metrics_keys = list(kept[0])
    return logger


def _is_whole(row: dict[str, Any]) -> bool:
    """Whether a line was written to its end; a killed run may leave half of one."""
    return None not in row.values() and row.get("step", "").isdecimal()


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Rows of ``metrics.csv``, absent values left out."""
    file = folder / "metrics.csv"
    if not file.is_file():
        return []
    with file.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if _is_whole(row)]
    return [{k: float(v) for k, v in row.items() if v} for row in rows]
