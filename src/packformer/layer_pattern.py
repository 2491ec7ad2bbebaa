"""Which settings each layer has, where layers differ; without importing torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OF_A_KIND = ("attention", "position")


def letters_of_layers(pattern: str, num_layers: int) -> str:
    """One letter per layer, bottom up: the pattern repeated, and its last letter at the top.

    ``SSSL`` makes ``SSSLSL`` of 6 layers, ``SL`` of 2 and ``L`` of one.

    Raises:
        ValueError: if ``pattern`` does not consist of letters.
    """
    if not isinstance(pattern, str) or not pattern.isalpha():
        raise ValueError(
            f"layers.pattern ({pattern}) must be letters, one per layer, such as SSSL; or null"
        )
    repeated = (pattern * num_layers)[: num_layers - 1]
    return repeated + pattern[-1]


def pattern_of(config: Mapping[str, Any]) -> str | None:
    """``layers.pattern``; None if all layers are alike."""
    layers = config.get("layers")
    if layers is None:
        return None
    if not isinstance(layers, Mapping):
        raise ValueError(f"layers ({layers}) must have a pattern and its letters, or be left out")
    return layers.get("pattern")


def kinds_of_layers(config: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """The attention and position settings of each letter of ``layers.pattern``.

    A letter's settings are those of the groups ``attention`` and ``position``, changed by what
    stands in ``layers.LETTER``. There, a ``_target_`` of its own replaces the whole group.

    Args:
        config: the resolved configuration, plain types only.

    Returns:
        Settings by group by letter; none if all layers are alike.

    Raises:
        ValueError: naming the setting.
    """
    pattern = pattern_of(config)
    if pattern is None:
        return {}
    letters = letters_of_layers(pattern, len(pattern) if isinstance(pattern, str) else 1)
    layers = config["layers"]
    for name in layers:
        if name != "pattern" and not (isinstance(name, str) and len(name) == 1):
            raise ValueError(f"there is no setting layers.{name}: layers takes pattern and letters")
    return {letter: _kind(letter, layers, config) for letter in dict.fromkeys(letters)}


def _kind(
    letter: str, layers: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    if letter not in layers:
        known = ", ".join(name for name in layers if name != "pattern") or "none"
        raise ValueError(
            f"layers.pattern ({layers['pattern']}) has a letter {letter}, there are {known}: add "
            f"+layers.{letter}.attention.window=..."
        )
    changes = layers[letter] or {}
    if not isinstance(changes, Mapping) or any(
        group not in _OF_A_KIND or not (change is None or isinstance(change, Mapping))
        for group, change in changes.items()
    ):
        raise ValueError(f"layers.{letter} ({changes}) must hold settings of attention or position")
    return {group: _changed(config[group], changes.get(group)) for group in _OF_A_KIND}


def _changed(common: Mapping[str, Any], change: Mapping[str, Any] | None) -> dict[str, Any]:
    # A null of what the group does not have at all says nothing.
    change = {k: v for k, v in (change or {}).items() if v is not None or k in common}
    return {"_partial_": True, **change} if "_target_" in change else {**common, **change}
