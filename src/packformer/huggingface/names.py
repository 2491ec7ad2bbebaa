"""Names of tensors: ours, and the one or several that each is in Llama's layout."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from packformer.huggingface.form import Form

_NOT_LOADED = "rotary_emb.inv_freq"  # of old folders: follows from the settings


class Part(NamedTuple):
    """Rows of one of our tensors that are a tensor of its own there.

    Attributes:
        name: there.
        shape: rows first.
        settings: of ``config.json`` that each size of the shape follows from.
    """

    name: str
    shape: tuple[int, ...]
    settings: tuple[str, ...]


class _Size(NamedTuple):
    setting: str
    value: int


def _part(name: str, *sizes: _Size) -> Part:
    return Part(name, tuple(s.value for s in sizes), tuple(s.setting for s in sizes))


def parts_of(form: Form) -> dict[str, list[Part]]:
    """All tensors of a form by our names, each with its parts from the first row to the last.

    Ours hold queries, keys and values in one matrix, and gate and up projection in another. A head
    that shares the embedding's weights is none of them.
    """
    width, hidden, vocabulary = (
        _Size("hidden_size", form.width),
        _Size("intermediate_size", form.hidden_width),
        _Size("vocab_size", form.vocab_size),
    )
    head = _Size("head_dim", form.head_dim)
    queries = _Size("num_attention_heads * head_dim", form.num_heads * form.head_dim)
    keys = _Size("num_key_value_heads * head_dim", form.num_kv_heads * form.head_dim)
    layer = {
        "attention_norm": [_part("input_layernorm", width)],
        "attention.qkv": [
            _part("self_attn.q_proj", queries, width),
            _part("self_attn.k_proj", keys, width),
            _part("self_attn.v_proj", keys, width),
        ],
        "attention.out": [_part("self_attn.o_proj", width, queries)],
        "mlp_norm": [_part("post_attention_layernorm", width)],
        "mlp.w12": [_part("mlp.gate_proj", hidden, width), _part("mlp.up_proj", hidden, width)],
        "mlp.w3": [_part("mlp.down_proj", width, hidden)],
    }
    if form.qk_norm:
        for norm in ("q_norm", "k_norm"):
            layer[f"attention.{norm}"] = [_part(f"self_attn.{norm}", head)]
    found = {"embedding.weight": [_part("model.embed_tokens.weight", vocabulary, width)]}
    for number in range(form.num_layers):
        for ours, parts in layer.items():
            found[f"blocks.{number}.{ours}.weight"] = [
                part._replace(name=f"model.layers.{number}.{part.name}.weight") for part in parts
            ]
    found["norm.weight"] = [_part("model.norm.weight", width)]
    if not form.tie_embeddings:
        found["head.weight"] = [_part("lm_head.weight", vocabulary, width)]
    return found


def exported(form: Form, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Tensors under their names there, as views of ours."""
    for ours, parts in parts_of(form).items():
        rows = weights[ours].split([part.shape[0] for part in parts])
        yield from zip((part.name for part in parts), rows, strict=True)


def exported_bytes(form: Form, bytes_per_value: int) -> int:
    """Of all tensors."""
    shapes = (part.shape for parts in parts_of(form).values() for part in parts)
    return bytes_per_value * sum(map(prod, shapes))


def check_names(
    form: Form,
    shapes: Mapping[str, tuple[int, ...]],
    file_of: Mapping[str, Path],
    name: str,
) -> list[str]:
    """Checks that a folder has the tensors of its form and no others.

    Args:
        form: of its configuration.
        shapes: of the tensors it has, by their names there.
        file_of: each tensor's file.
        name: of the folder, for messages.

    Returns:
        Names of tensors to leave out, because they follow from others.

    Raises:
        ValueError: naming a tensor that is missing, unknown or of another shape.
    """
    wanted = {part.name: part for parts in parts_of(form).values() for part in parts}
    copy = {"lm_head.weight": wanted["model.embed_tokens.weight"]} if form.tie_embeddings else {}
    left_out = [n for n in shapes if n in copy or n.endswith(_NOT_LOADED)]
    if missing := [n for n in wanted if n not in shapes]:
        raise ValueError(
            f"{name} lacks the tensor {missing[0]}{_and_more(missing)}: the folder is incomplete, "
            "or its config.json is of another model"
        )
    if unknown := [n for n in shapes if n not in wanted and n not in left_out]:
        raise ValueError(
            f"{name} has a tensor {unknown[0]}{_and_more(unknown)} that no model here has: it is "
            "of another architecture than its config.json says"
        )
    for tensor, part in (copy | wanted).items():
        if tensor in shapes and shapes[tensor] != part.shape:
            raise ValueError(
                f"{name}: the tensor {tensor} has shape {list(shapes[tensor])}, and "
                f"{list(part.shape)} by its config.json: "
                + _at_fault(wanted.values(), shapes, shapes[tensor], part, file_of[tensor])
            )
    return left_out


def _at_fault(
    parts: Iterable[Part],
    shapes: Mapping[str, tuple[int, ...]],
    found: tuple[int, ...],
    part: Part,
    file: Path,
) -> str:
    """The setting that fits no tensor, or else the file with a tensor that does not fit."""
    damaged = f"fetch {file} again, it is not of this model"
    if len(found) != len(part.shape):
        return damaged
    place = next(n for n, size in enumerate(found) if size != part.shape[n])
    setting, told = part.settings[place], part.shape[place]
    theirs = {
        shapes[other.name][n]
        for other in parts
        for n, name in enumerate(other.settings)
        if name == setting and n < len(shapes[other.name])
    }
    if theirs != {found[place]}:
        return damaged
    return f"{setting} ({told}) there must be {found[place]}, by all tensors"


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
