"""Hostile tokenizers and other files of a run folder; and files that nobody changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .case import (
    GENERATE,
    GENERATE_MODEL,
    RESUME,
    SHARDS,
    TEXT,
    UNCHANGED,
    UNCHECKED,
    Case,
    changed_json,
    copied,
    write,
)

_FILES_OF_RUN = (
    *("config.yaml", "metrics.csv", "summary.json", "environment.json", "tokenizer.json"),
    *("skipped.csv", "error.txt", "loss.png", ".lock", "wandb_run_id.txt", "checkpoints/last.ckpt"),
)


def whole() -> Iterator[Case]:
    """Files that nobody changed: what reads them must not fail for another reason."""

    def unchanged(folder: Path) -> None:
        pass

    for source, arguments in (
        ("corpus", SHARDS),
        ("corpus", UNCHECKED),
        ("run", GENERATE),
        ("run", RESUME),
        ("run", (*TEXT, "init_from=run")),
        ("run", ("export", "run", "out")),
        ("model", GENERATE_MODEL),
        ("model", (*TEXT, "init_from=model")),
    ):
        name = f"whole {source}: {' '.join(arguments)}"
        yield Case(name, UNCHANGED, arguments, copied(source, unchanged))


def rest() -> Iterator[Case]:
    def tokenizer(change: Callable[[Any], Any]) -> Callable[[Path], None]:
        return lambda folder: changed_json(folder / "tokenizer.json", change)

    def high(values: Any) -> Any:
        values["model"]["vocab"]["word"] = 2**32 - 1
        return values

    def top(**changes: Any) -> Callable[[Any], Any]:
        return lambda values: {**values, **changes}

    slow = {"type": "Split", "pattern": {"Regex": "((a|a)*)*b"}, "behavior": "Isolated"}
    changes: dict[str, Callable[[Path], None]] = {
        "garbage": lambda f: write(f / "tokenizer.json", b"\x00garbage"),
        "a list": lambda f: write(f / "tokenizer.json", b"[]"),
        "nested 200,000 deep": lambda f: write(f / "tokenizer.json", b"[" * 200_000),
        "an id of 4 billion": tokenizer(high),
        "no vocabulary": tokenizer(
            top(model={"type": "BPE", "vocab": {}, "merges": []}, added_tokens=[])
        ),
        "a pattern that takes for ever": tokenizer(top(pre_tokenizer={**slow, "invert": False})),
        "a pattern that is none": tokenizer(
            top(pre_tokenizer={**slow, "pattern": {"Regex": "("}, "invert": False})
        ),
    }
    for name, change in changes.items():
        for source, arguments in (("run", GENERATE), ("model", GENERATE_MODEL)):
            build = copied(source, change)
            yield Case(f"tokenizer of a {source}: {name}", "tokenizer", arguments, build)

        def beside(corpus: Path, change: Callable[[Path], None] = change) -> None:
            change(corpus)
            import hashlib

            digest = hashlib.sha256((corpus / "tokenizer.json").read_bytes()).hexdigest()
            changed_json(corpus / "manifest.json", lambda v: {**v, "tokenizer_sha256": digest})

        build = copied("corpus", beside)
        yield Case(f"tokenizer of a corpus: {name}", "tokenizer", SHARDS, build)
    files: dict[str, tuple[str, bytes]] = {
        "summary.json nested": ("summary.json", b"[" * 200_000),
        "summary.json of text": ("summary.json", b'{"val/loss": "x", "name": 3}'),
        "environment.json nested": ("environment.json", b"[" * 200_000),
        "environment.json of numbers": ("environment.json", b'{"tokenizer_sha256": 3}'),
    }
    for name, (file, content) in files.items():
        build = copied("run", lambda f, n=file, c=content: write(f / n, c))  # type: ignore[misc]
        yield Case(f"run folder: {name}", "run folder", ("export", "run", "out"), build)
    metrics = {"of text": b"step,val/loss\n1,x\n", "of 300,000 columns": b"step" + b",a" * 300_000}
    for name, content in metrics.items():
        build = copied("run", lambda f, c=content: write(f / "metrics.csv", c))  # type: ignore[misc]
        yield Case(f"run folder: metrics.csv {name}", "run folder", RESUME, build)
    yield from _special()


def _special() -> Iterator[Case]:
    """What is no file where one is read or written: links that lead out, and named pipes."""

    def link(run: Path, name: str) -> None:
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(run.parent.parent / "outside" / "secret.txt")

    def pipe(run: Path, name: str) -> None:
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)

    def folder(run: Path) -> None:
        outside = run.parent.parent / "outside"
        for file in (run / "checkpoints").iterdir():
            file.rename(outside / file.name)
        (run / "checkpoints").rmdir()
        (run / "checkpoints").symlink_to(outside)

    def shards(run: Path) -> None:
        (run.parent.parent / "outside" / "folder").mkdir()
        (run.parent.parent / "outside" / "folder" / "file").touch()
        (run / "checkpoints" / "shards").symlink_to(run.parent.parent / "outside")

    arguments = (*RESUME, "trainer.max_steps=9")
    for name in _FILES_OF_RUN:
        for what, special in (("a link to a file outside", link), ("a named pipe", pipe)):
            build = copied("run", lambda f, s=special, n=name: s(f, n))  # type: ignore[misc]
            yield Case(f"run folder: {name} is {what}", "run folder", arguments, build)
    for name, change in (("checkpoints", folder), ("checkpoints/shards", shards)):
        told = f"run folder: {name} is a link to a folder outside"
        yield Case(told, "run folder", arguments, copied("run", change))
