"""What settings mean: the same can be written in several ways."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from inspect import Parameter, signature
from typing import Any

from packformer.layer_pattern import kinds_of_layers, letters_of_layers, pattern_of

_OF_LAYERS = ("attention", "position", "layers")


def in_words_of(config: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """``other``, written as ``config`` is wherever both mean the same.

    They mean the same where one leaves out a setting, or has null, and the other states the value
    that this stands for; and where all layers come out alike, whatever letters say it.

    Args:
        config: resolved, plain types only.
        other: the same.
    """
    told = {group: _group_in_words_of(config, other, group) for group in other}
    if _same_layers(config, told):
        for group in _OF_LAYERS:
            told.pop(group, None)
        told |= {group: config[group] for group in _OF_LAYERS if group in config}
    return told


def _group_in_words_of(config: Mapping[str, Any], other: Mapping[str, Any], group: str) -> Any:
    here, there = config.get(group), other[group]
    if not isinstance(here, Mapping) or not isinstance(there, Mapping):
        return there
    told = dict(there)
    for name in here.keys() | there.keys():
        if _same(config, here, other, there, name):
            told.pop(name, None)
            told |= {name: here[name]} if name in here else {}
    return told


def _same(
    config: Mapping[str, Any],
    here: Mapping[str, Any],
    other: Mapping[str, Any],
    there: Mapping[str, Any],
    name: str,
) -> bool:
    """Whether a setting of two nodes, each of its configuration, means the same."""
    if name in here and name in there and here[name] == there[name]:
        return True
    if here.get("_target_") != there.get("_target_") or "_target_" not in here:
        return False
    one, two = _stated(here, name), _stated(there, name)
    if one is None and two is not None:
        one = _derived(config, str(here["_target_"]), name)
    elif two is None and one is not None:
        two = _derived(other, str(there["_target_"]), name)
    return bool(one == two)


def _stated(node: Mapping[str, Any], name: str) -> Any:
    return node[name] if name in node else _default(str(node["_target_"]), name)


@cache
def _default(target: str, name: str) -> Any:
    """Of an argument; None if there is none, or if it cannot be found out."""
    from hydra.utils import get_object

    try:
        argument = signature(get_object(target)).parameters.get(name)
    except (ImportError, ValueError, TypeError):  # told where the target is made
        return None
    return None if argument is None or argument.default is Parameter.empty else argument.default


def _derived(config: Mapping[str, Any], target: str, name: str) -> Any:
    """What null stands for, where other settings say it; else None."""
    model, packing = config.get("model"), config.get("packing")
    if target == "packformer.data.PackingSettings" and name == "max_document_length":
        cuts = isinstance(packing, Mapping) and packing.get("policy") == "concatenate"
        return packing.get("row_length") if isinstance(packing, Mapping) and not cuts else None
    sizes = model if isinstance(model, Mapping) else {}
    width, num_heads = sizes.get("width"), sizes.get("num_heads")
    if not isinstance(width, int) or not isinstance(num_heads, int) or num_heads < 1:
        return None
    if target == "packformer.model.GPT" and name == "hidden_width":
        from packformer.model.gpt import default_hidden_width  # imports torch

        return default_hidden_width(width)
    of_attention = {"num_kv_heads": num_heads, "head_dim": width // num_heads}
    return of_attention.get(name) if target == "packformer.model.SelfAttention" else None


def _same_layers(config: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    here, there = _layers(config), _layers(other)
    if here is None or there is None or len(here) != len(there):
        return False
    return all(
        _same(config, one, other, two, name)
        for kinds in zip(here, there, strict=True)
        for one, two in zip(*kinds, strict=True)
        for name in (one.keys() | two.keys()) - {"_partial_"}
    )


def _layers(config: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]] | None:
    """Attention and position of each layer, bottom up; None where a configuration is damaged."""
    model = config.get("model")
    num_layers = model.get("num_layers") if isinstance(model, Mapping) else None
    if not isinstance(num_layers, int) or num_layers < 1:
        return None
    try:
        pattern, kinds = pattern_of(config), kinds_of_layers(config)
    except (ValueError, KeyError, TypeError):
        return None
    letters = [""] * num_layers if pattern is None else letters_of_layers(pattern, num_layers)
    found = [kinds.get(letter, config) for letter in letters]
    layers = [(kind.get("attention"), kind.get("position")) for kind in found]
    nodes = [node for layer in layers for node in layer]
    return layers if all(isinstance(node, Mapping) for node in nodes) else None  # type: ignore[return-value]
