"""Arguments that the run gives to what it makes, and that nobody can set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from packformer.layer_pattern import kinds_of_layers

_SIZES = {"width": "set model.width", "num_heads": "set model.num_heads"}
_LONGEST = "set packing.max_document_length"
_INSTEAD: dict[str, dict[str, str]] = {
    "model": {
        "max_position": _LONGEST,
        "attention": "choose attention=NAME",
        "position": "choose position=NAME",
    },
    "attention": _SIZES,
    "position": {**_SIZES, "head_dim": "set attention.head_dim", "max_position": _LONGEST},
}
_BY_PLACE = {"optimizer": ("model", "params"), "scheduler": ("step",)}


def given_to(place: str) -> tuple[str, ...]:
    """Names of arguments that are no settings of ``place``, such as ``layers.S.attention``."""
    group = place.rpartition(".")[2]
    return _BY_PLACE.get(group, tuple(_INSTEAD.get(group, ())))


def refuse_given(settings: Mapping[str, Any]) -> None:
    """Refuses settings of model, attention and position that the run gives them itself.

    Args:
        settings: the resolved configuration, plain types only.

    Raises:
        ValueError: naming the setting, and what to set instead.
    """
    for group in _INSTEAD:
        _refuse(group, group, settings[group])
    for letter, kind in kinds_of_layers(settings).items():
        for group, node in kind.items():
            _refuse(f"layers.{letter}.{group}", group, node)


def _refuse(place: str, group: str, node: Mapping[str, Any]) -> None:
    for name, instead in _INSTEAD[group].items():
        if name in node:
            giver = "the run" if group == "model" else "the model"
            raise ValueError(
                f"{place}.{name} ({node[name]}) cannot be set, as {giver} sets it: {instead}"
            )
