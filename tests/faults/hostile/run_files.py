"""Hostile tokenizers and other files of a run folder; and files that nobody changed."""

from __future__ import annotations

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
