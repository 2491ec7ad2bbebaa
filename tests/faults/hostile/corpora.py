"""Hostile corpora: manifests and shards."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .case import (
    SHARDS,
    UNCHECKED,
    Case,
    changed_json,
    copied,
    write,
)


def manifests() -> Iterator[Case]:
    def shard(**changes: Any) -> Callable[[Any], Any]:
        def change(values: Any) -> Any:
            values["train"][0].update(changes)
            return values

        return change

    def top(**changes: Any) -> Callable[[Any], Any]:
        return lambda values: {**values, **changes}

    changes: dict[str, Callable[[Any], Any]] = {
        "file above the folder": shard(file="../outside.tokens"),
        "absolute file": shard(file="/etc/passwd"),
        "file with a zero byte": shard(file="a\0b"),
        "empty file name": shard(file=""),
        "sha256 is a path": shard(sha256="/tmp/x"),
        "sha256 is a number": shard(sha256=7),
        "tokenizer_sha256 is a path": top(tokenizer_sha256="../../x"),
        "negative documents": shard(documents=-1),
        "tokens beyond the file": shard(tokens=10**15),
        "tokens as text": shard(tokens="many"),
        "tokens as a list": shard(tokens=[1]),
        "documents true": shard(documents=True),
        "more documents than tokens": shard(documents=10**6, tokens=5),
        "no tokens": shard(documents=0, tokens=0),
        "vocabulary of 4 billion": top(vocab_size=2**32, dtype="uint32"),
        "vocabulary of 65,536": top(vocab_size=2**16),
        "vocabulary of nothing": top(vocab_size=0),
        "dtype object": top(dtype="object"),
        "dtype float64": top(dtype="float64"),
        "remarks that clear the screen": top(remarks=["\x1b[2J\x1b]0;x\x07"]),
        "remarks without end": top(remarks=["x" * 10**6]),
        "fraction not a number": top(validation_fraction="a"),
        "left_out as text": top(left_out="x"),
        "shards as text": top(train="x"),
        "a list": lambda values: [values],
        "unknown fields": top(__class__="x"),
    }
    for name, change in changes.items():
        build = copied("corpus", lambda f, c=change: changed_json(f / "manifest.json", c))  # type: ignore[misc]
        yield Case(f"manifest: {name}", "corpus", SHARDS, build)
    texts: dict[str, bytes] = {
        "nested 200,000 deep": b"[" * 200_000,
        "a number of 5,000 digits": b'{"format": ' + b"1" * 5000 + b"}",
        "no text": b"\xff\xfe\x00" * 100,
        "empty": b"",
    }
    for name, text in texts.items():
        build = copied("corpus", lambda f, t=text: write(f / "manifest.json", t))  # type: ignore[misc]
        yield Case(f"manifest: {name}", "corpus", SHARDS, build)


def _first_shard(corpus: Path) -> Path:
    return corpus / json.loads((corpus / "manifest.json").read_text())["train"][0]["file"]


def _rehash(corpus: Path, **changes: Any) -> None:
    """Has the manifest fit the first shard."""
    import hashlib

    digest = hashlib.sha256(_first_shard(corpus).read_bytes()).hexdigest()

    def change(values: Any) -> Any:
        values["train"][0].update(sha256=digest, **changes)
        return values

    changed_json(corpus / "manifest.json", change)


def shards() -> Iterator[Case]:
    def patched(place: int, content: bytes) -> Callable[[Path], None]:
        def change(corpus: Path) -> None:
            file = _first_shard(corpus)
            data = bytearray(file.read_bytes())
            at = place if place >= 0 else len(data) + place
            data[at : at + len(content)] = content
            file.write_bytes(data)
            _rehash(corpus)

        return change

    def linked(name: str) -> Callable[[Path], None]:
        def change(corpus: Path) -> None:
            file = _first_shard(corpus) if name == "shard" else corpus / name
            outside = corpus.parent.parent / "outside" / file.name
            shutil.move(file, outside)
            file.symlink_to(outside)

        return change

    def sparse(corpus: Path) -> None:
        with _first_shard(corpus).open("wb") as stream:
            stream.truncate(2**41 + 8)

        def change(values: Any) -> Any:
            values["train"][0].update(documents=1, tokens=2**40)
            return values

        changed_json(corpus / "manifest.json", change)

    def pipe(corpus: Path) -> None:
        file = _first_shard(corpus)
        file.unlink()
        os.mkfifo(file)

    changes: dict[str, Callable[[Path], None]] = {
        "ids of 65,535": patched(2, b"\xff\xff"),
        "ends that descend": patched(-16, bytes([255] * 8)),
        "ends of zero": patched(-16, bytes(8)),
        "a link out of the folder": linked("shard"),
        "a tokenizer that is a link out of the folder": linked("tokenizer.json"),
    }
    for name, change in changes.items():
        build = copied("corpus", change)
        yield Case(f"shard: {name}", "corpus", SHARDS, build)
        yield Case(f"shard, not verified: {name}", "corpus", UNCHECKED, build)
    yield Case("shard: a hole of 2 TiB", "corpus", SHARDS, copied("corpus", sparse))
    yield Case("shard: a pipe", "corpus", SHARDS, copied("corpus", pipe))
    yield Case(
        "shard: inspected, ids of 65,535",
        "corpus",
        ("inspect", "corpus"),
        copied("corpus", patched(2, b"\xff\xff")),
    )
