"""What a run folder holds besides checkpoints and metrics: configuration and environment."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only

import packformer
from packformer.run.own_paths import WORKING_FOLDER
from packformer.run.own_tokenizer import keep_tokenizer
from packformer.run.resume import CONFIG_FILE, ENVIRONMENT_FILE, LAST_CHECKPOINT, SUMMARY_FILE
from packformer.training.shards import remove_unused
from packformer.whole_file import remove_unfinished, replace_text, replacing

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
def remove_leftovers(folder: Path, callbacks: Iterable[Checkpoint]) -> None:
    """Removes what killed processes left half written.

    Args:
        folder: of a run that this process alone writes to.
        callbacks: that save checkpoints, in that folder or elsewhere.
    """
    remove_unfinished(folder)
    (folder / ".metrics.csv").unlink(missing_ok=True)  # as packformer named it before 2026-11-27
    checkpoints = (folder / LAST_CHECKPOINT).parent
    remove_unused(checkpoints)
    chosen = {Path(c.dirpath) for c in callbacks if isinstance(c, ModelCheckpoint) and c.dirpath}
    for place in {checkpoints, *chosen}:
        remove_unfinished(place)


@rank_zero_only
def write_records(folder: Path, config: dict[str, Any], tokenizer: Path | None = None) -> None:
    """Writes configuration, environment and tokenizer; what a resumed run had is kept.

    Its summary is set aside, because the run is no longer finished. A kill at any point leaves a
    configuration, and what it left half done the next start completes.

    Args:
        folder: of the run.
        config: resolved.
        tokenizer: the ``tokenizer.json`` of its text; None if it has none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG_FILE, ENVIRONMENT_FILE, SUMMARY_FILE):
        _keep_copy(folder / name)
    # In this order: with its summary and a configuration of more steps a run would seem finished.
    (folder / SUMMARY_FILE).unlink(missing_ok=True)
    replace_text(folder / CONFIG_FILE, yaml.safe_dump(config, sort_keys=False))
    environment = _environment()
    if tokenizer is not None:
        environment |= keep_tokenizer(tokenizer, folder)
    replace_text(folder / ENVIRONMENT_FILE, json.dumps(environment, indent=2) + "\n")


def _keep_copy(file: Path) -> None:
    """Copies it to ``NAME-1``, ``NAME-2``, ...: the file itself is there at every instant."""
    if file.is_symlink() or not file.is_file():  # what lies elsewhere is not the run's
        return
    copies = file.parent.glob(f"{file.stem}-*{file.suffix}")
    numbers = (copy.stem.removeprefix(f"{file.stem}-") for copy in copies)
    number = max((int(number) for number in numbers if number.isdecimal()), default=0)
    latest = file.with_stem(f"{file.stem}-{number}")
    if latest.is_file() and latest.read_bytes() == file.read_bytes():
        return  # a start that was killed kept it
    with replacing(file.with_stem(f"{file.stem}-{number + 1}")) as copy:
        shutil.copyfile(file, copy)


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
        WORKING_FOLDER: str(Path.cwd()),
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
