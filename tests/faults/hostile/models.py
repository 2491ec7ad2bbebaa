"""Hostile folders of transformers."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .case import (
    GENERATE_MODEL,
    TEXT,
    Case,
    changed_json,
    copied,
    write,
)


def models() -> Iterator[Case]:
    def config(**changes: Any) -> Callable[[Path], None]:
        return lambda model: changed_json(model / "config.json", lambda v: {**v, **changes})

    def index(names: Any) -> Callable[[Path], None]:
        def build(model: Path) -> None:
            text = json.dumps({"weight_map": {"model.norm.weight": names}})
            (model / "model.safetensors.index.json").write_text(text)

        return build

    def linked(model: Path) -> None:
        outside = model.parent.parent / "outside" / "model.safetensors"
        shutil.move(model / "model.safetensors", outside)
        (model / "model.safetensors").symlink_to(outside)

    def header(text: bytes, size: int | None = None) -> Callable[[Path], None]:
        content = struct.pack("<Q", len(text) if size is None else size) + text
        return lambda model: write(model / "model.safetensors", content)

    changes: dict[str, Callable[[Path], None]] = {
        "10^12 positions": config(max_position_embeddings=10**12),
        "10^9 layers": config(num_hidden_layers=10**9),
        "a width of 10^12": config(hidden_size=10**12),
        "a vocabulary of 10^12": config(vocab_size=10**12),
        "heads as text": config(num_attention_heads="4"),
        "key heads as text": config(num_key_value_heads="x"),
        "a head size that is a list": config(head_dim=[16]),
        "a rotary base as text": config(rope_theta="x"),
        "an infinite rotary base": config(rope_theta=float("inf")),
        "rotary settings as text": config(rope_scaling={"rope_type": "llama3", "factor": "x"}),
        "code of its own": config(auto_map={"AutoModelForCausalLM": "evil.Model"}),
        "an unknown architecture": config(model_type="../x"),
        "an index above the folder": index("../../outside/model.safetensors"),
        "an index of an absolute file": index("/etc/passwd"),
        "an index of numbers": index(3),
        "an index as text": lambda m: write(m / "model.safetensors.index.json", b"{"),
        "an index nested 200,000 deep": lambda m: write(
            m / "model.safetensors.index.json", b"[" * 200_000
        ),
        "a link out of the folder": linked,
        "a header of 2^60 bytes": header(b"{}", 2**60),
        "a header that is no JSON": header(b"x" * 100),
        "tensors that overlap": header(
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
            b'"b":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'
        ),
        "config.json nested 200,000 deep": lambda m: write(m / "config.json", b"[" * 200_000),
        "config.json is a list": lambda m: write(m / "config.json", b"[]"),
        "config.json is no text": lambda m: write(m / "config.json", b"\xff\xfe\x00"),
        "tokenizer_config.json nested 200,000 deep": lambda m: write(
            m / "tokenizer_config.json", b"[" * 200_000
        ),
    }
    for name, change in changes.items():
        build = copied("model", change)
        yield Case(f"model: {name}", "folder of transformers", GENERATE_MODEL, build)
    for name in ("10^9 layers", "10^12 positions", "a link out of the folder"):
        build = copied("model", changes[name])
        arguments = (*TEXT, "init_from=model")
        yield Case(f"model, init_from: {name}", "folder of transformers", arguments, build)
