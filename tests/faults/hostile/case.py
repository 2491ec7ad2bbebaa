"""What a hostile file is: a name, what is damaged or planted, and the command that reads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARKER = "ran"
"""What a payload makes in the folder of its case."""
UNCHANGED = "unchanged"
"""Kind of the cases in which nothing is hostile."""
CANARY = "canary-3c5a1e"
"""What files outside of the folder of the case hold."""


@dataclass(frozen=True)
class Material:
    """Whole files that cases begin with.

    Attributes:
        run: folder of a run.
        model: the same as a folder of transformers.
        corpus: that was prepared.
        text: a file.
    """

    run: Path
    model: Path
    corpus: Path
    text: Path


@dataclass(frozen=True)
class Case:
    """A hostile file, and who reads it.

    Attributes:
        name: of the case.
        kind: of the file.
        arguments: of ``packformer``.
        build: makes the files in an empty folder.
    """

    name: str
    kind: str
    arguments: tuple[str, ...]
    build: Callable[[Path, Material], None]


TRAIN = ("train", "+debug=fast", "output_dir=runs")
SHARDS = (*TRAIN, "data=shards", "data.path=corpus")
UNCHECKED = (*SHARDS, "data.verify=false")
TEXT = (*TRAIN, "data=text", "data.path=text.txt")
GENERATE = ("generate", "run", "word1", "--max-new-tokens", "4")
GENERATE_MODEL = ("generate", "model", "word1", "--max-new-tokens", "4")
RESUME = ("train", "resume=run")


def copied(source: str, change: Callable[[Path], None]) -> Callable[[Path, Material], None]:
    def build(folder: Path, material: Material) -> None:
        shutil.copytree(getattr(material, source), folder / source, symlinks=True)
        shutil.copyfile(material.text, folder / "text.txt")
        change(folder / source)

    return build


def changed_json(file: Path, change: Callable[[Any], Any]) -> None:
    values = json.loads(file.read_text())
    file.write_text(json.dumps(change(values)))


def write(file: Path, content: bytes) -> None:
    file.unlink(missing_ok=True)
    file.write_bytes(content)
