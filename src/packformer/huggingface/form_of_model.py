"""The form of a model, or why it has none."""

from __future__ import annotations

from typing import Any

from torch import nn

from packformer.huggingface.form import Form
from packformer.model import GPT, SelfAttention
from packformer.model.block import Block
from packformer.nn import Position, RMSNorm, Rotary
from packformer.settings import name_of

_NONE = "has no form in transformers"
_ALIKE = ("num_heads", "num_kv_heads", "head_dim", "window")


def form_of_model(model: GPT) -> Form:
    """What ``model`` is in ``transformers``.

    Raises:
        ValueError: naming the reason and the setting at fault, if it computes what no architecture
            there computes.
    """
    _check_class("model", model, GPT)
    for block in model.blocks:
        _check_class("model", block, Block)
    for layer in model.layers:
        _check_class("attention", layer, SelfAttention)
    _check_alike(model)
    position = model.positions[0]
    _check_position(position)
    assert isinstance(position, Rotary)
    layer = model.layers[0]
    return Form(
        vocab_size=model.vocab_size,
        max_position=model.max_position,
        num_layers=len(model.blocks),
        width=model.width,
        hidden_width=model.hidden_width,
        num_heads=layer.num_heads,
        num_kv_heads=layer.num_kv_heads,
        head_dim=layer.head_dim,
        norm_eps=_norm_eps(model),
        base=float(position.base),
        scaling=None if position.scaling is None else dict(position.scaling),
        window=layer.window,
        qk_norm=isinstance(layer.q_norm, RMSNorm),
        tie_embeddings=model.head.weight is model.embedding.weight,
    )


def _check_class(setting: str, part: nn.Module, wanted: type[nn.Module]) -> None:
    if type(part) is not wanted:
        raise ValueError(f"{setting} ({type(part).__name__}) is your own and {_NONE}")


def _check_alike(model: GPT) -> None:
    """Refuses layers that differ."""
    first = model.layers[0]
    for number, layer in enumerate(model.layers):
        if layer.soft_cap is not None:
            raise ValueError(f"attention.soft_cap ({layer.soft_cap}) {_NONE}: set it to null")
        if layer.score_mod is not None:
            function = name_of(layer.score_mod)
            raise ValueError(f"attention.score_mod ({function}) {_NONE}: set it to null")
        if layer.value_embeddings:
            raise ValueError(
                f"attention.value_embeddings (true) {_NONE}: train with "
                "attention.value_embeddings=false"
            )
        for name in _ALIKE:
            one, other = getattr(first, name), getattr(layer, name)
            if one != other:
                raise ValueError(_differ(f"attention.{name}", one, other, number))
        if type(first.q_norm) is not type(layer.q_norm):
            normed, other_normed = (isinstance(x.q_norm, RMSNorm) for x in (first, layer))
            raise ValueError(_differ("attention.qk_norm", normed, other_normed, number))
    if len(model.positions) > 1:
        raise ValueError(f"layers differ in their position scheme, which {_NONE}: use layers=alike")


def _differ(name: str, one: Any, other: Any, number: int) -> str:
    return (
        f"{name} is {one} in layer 0 and {other} in layer {number}; a model whose layers differ "
        f"{_NONE}: use layers=alike"
    )


def _check_position(position: Position) -> None:
    if type(position) is not Rotary:
        raise ValueError(
            f"position ({type(position).__name__}) {_NONE}, where this block's is rotary: train "
            "with position=rotary"
        )


def _norm_eps(model: GPT) -> float:
    """The epsilon of all norms."""
    values = {module.eps for module in model.modules() if isinstance(module, RMSNorm)}
    if len(values) > 1 or None in values:
        raise ValueError(
            "model.norm_eps (null) gives the norms of queries and keys another epsilon than the "
            f"others, which {_NONE}: train with model.norm_eps=1e-5"
        )
    (eps,) = values
    assert eps is not None
    return eps
