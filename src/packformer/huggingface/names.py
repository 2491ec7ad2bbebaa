"""Names of tensors: ours, and the one or several that each is in Llama's layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import NamedTuple

from torch import Tensor

from packformer.huggingface.form import Form

_NOT_LOADED = "rotary_emb.inv_freq"  # of old folders: follows from the settings


class Part(NamedTuple):
    """Rows of one of our tensors that are a tensor of its own there.

    Attributes:
        name: there.
        shape: rows first.
    """

    name: str
    shape: tuple[int, ...]


def parts_of(form: Form) -> dict[str, list[Part]]:
    """All tensors of a form by our names, each with its parts from the first row to the last.

    Ours hold queries, keys and values in one matrix, and gate and up projection in another. A head
    that shares the embedding's weights is none of them.
    """
    width, hidden = form.width, form.hidden_width
    queries, keys = form.num_heads * form.head_dim, form.num_kv_heads * form.head_dim
    layer = {
        "attention_norm": [Part("input_layernorm", (width,))],
        "attention.qkv": [
            Part("self_attn.q_proj", (queries, width)),
            Part("self_attn.k_proj", (keys, width)),
            Part("self_attn.v_proj", (keys, width)),
        ],
        "attention.out": [Part("self_attn.o_proj", (width, queries))],
        "mlp_norm": [Part("post_attention_layernorm", (width,))],
        "mlp.w12": [
            Part("mlp.gate_proj", (hidden, width)),
            Part("mlp.up_proj", (hidden, width)),
        ],
        "mlp.w3": [Part("mlp.down_proj", (width, hidden))],
    }
    if form.qk_norm:
        for norm in ("q_norm", "k_norm"):
            layer[f"attention.{norm}"] = [Part(f"self_attn.{norm}", (form.head_dim,))]
    found = {"embedding.weight": [Part("model.embed_tokens.weight", (form.vocab_size, width))]}
    for number in range(form.num_layers):
        for ours, parts in layer.items():
            found[f"blocks.{number}.{ours}.weight"] = [
                Part(f"model.layers.{number}.{part.name}.weight", part.shape) for part in parts
            ]
    found["norm.weight"] = [Part("model.norm.weight", (width,))]
    if not form.tie_embeddings:
        found["head.weight"] = [Part("lm_head.weight", (form.vocab_size, width))]
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


def check_names(form: Form, shapes: Mapping[str, tuple[int, ...]], name: str) -> list[str]:
    """Checks that a folder has the tensors of its form and no others.

    Args:
        form: of its configuration.
        shapes: of the tensors it has, by their names there.
        name: of the folder, for messages.

    Returns:
        Names of tensors to leave out, because they follow from others.

    Raises:
        ValueError: naming a tensor that is missing, unknown or of another shape.
    """
    wanted = {part.name: part.shape for parts in parts_of(form).values() for part in parts}
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
    for tensor, shape in (copy | wanted).items():
        if tensor in shapes and shapes[tensor] != shape:
            raise ValueError(
                f"{name}: the tensor {tensor} has shape {list(shapes[tensor])}, and "
                f"{list(shape)} by its config.json"
            )
    return left_out


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
