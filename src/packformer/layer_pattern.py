"""Which settings each layer has, where layers differ; without importing torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from packformer.settings import shown

GROUPS_OF_LETTERS = ("attention", "position")
"""Of whose settings a letter can have its own."""

_OF_LOCAL_GLOBAL = "SL"
_INSTEAD = {  # choices of a group, which a letter cannot make, as settings
    "attention": {"mha": "num_kv_heads=null", "gqa": "num_kv_heads=2", "mqa": "num_kv_heads=1"},
    "position": {
        "rotary": "_target_=packformer.nn.Rotary",
        "alibi": "_target_=packformer.nn.ALiBi",
        "learned": "_target_=packformer.nn.Learned",
        "none": "_target_=packformer.nn.NoPosition",
    },
}


def letters_of_layers(pattern: str, num_layers: int) -> str:
    """One letter per layer, bottom up: the pattern repeated, and its last letter at the top.

    ``SSSL`` makes ``SSSLSL`` of 6 layers, ``SL`` of 2 and ``L`` of one.

    Raises:
        ValueError: if ``pattern`` does not consist of ASCII letters, which settings are named by.
    """
    if not isinstance(pattern, str) or not pattern.isalpha() or not pattern.isascii():
        raise ValueError(
            f"layers.pattern ({shown(pattern)}) must be letters from A to Z, one per layer, such "
            "as SSSL; or null"
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
    stands in ``layers.LETTER``, if that is there. There, a ``_target_`` of its own replaces the
    whole group.

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
    known = {name: _changes(name, layers[name]) for name in layers if name != "pattern"}
    _check_letters(letters, list(known))
    return {
        letter: {
            group: _changed(config[group], known.get(letter, {}).get(group))
            for group in GROUPS_OF_LETTERS
        }
        for letter in dict.fromkeys(letters)
    }


def _check_letters(letters: str, known: Sequence[str]) -> None:
    """Refuses letters without settings that are probably misspelt, and a pattern of none but them.

    Layers of other letters without settings are as ``attention`` and ``position`` say.
    """
    pattern = f"layers.pattern ({letters})"
    if not known:
        advice = f"add some, such as +layers.{letters[0]}.attention.window=128"
        if set(letters.upper()) <= set(_OF_LOCAL_GLOBAL):
            advice = f"write layers=local_global layers.pattern={letters.upper()}"
        raise ValueError(f"{pattern} has no letter with settings of its own: {advice}")
    missing = [letter for letter in dict.fromkeys(letters) if letter not in known]
    unused = [letter for letter in known if letter not in letters]
    meant = {letter: letter.swapcase() for letter in missing if letter.swapcase() in known}
    if not missing or not (unused or meant):
        return
    if set(meant) == set(missing):
        advice = f"did you mean {''.join(meant.get(letter, letter) for letter in letters)}?"
    else:
        added = (f"+layers.{letter}.attention.window=..." for letter in missing)
        advice = f"correct the pattern, or add {' '.join(added)}"
    has = f"{'a letter' if len(missing) == 1 else 'letters'} {', '.join(missing)} without settings"
    lacks = f", and lacks {', '.join(unused)} with settings" if unused else ""
    raise ValueError(f"{pattern} has {has}{lacks}: {advice}")


def _changes(letter: str, changes: Any) -> Mapping[str, Mapping[str, Any] | None]:
    """What a letter has of its own, by group."""
    changes = {} if changes is None else changes
    if not isinstance(changes, Mapping) or not set(changes) <= set(GROUPS_OF_LETTERS):
        raise ValueError(f"layers.{letter} ({changes}) must hold settings of attention or position")
    for group, change in changes.items():
        if not (change is None or isinstance(change, Mapping)):
            raise ValueError(no_choice(f"layers.{letter}.{group}", str(change)))
    return changes


def no_choice(name: str, choice: str) -> str:
    """Says that a letter cannot choose, as in ``layers.S.position=none``, and what to write.

    Args:
        name: such as ``layers.S.position``.
        choice: as it was given.
    """
    setting = _INSTEAD[name.rpartition(".")[2]].get(choice)
    # With ++, as the letter may have the setting already.
    advice = f"write ++{name}.{setting or 'NAME=VALUE'}"
    return f"{name} ({choice}) must hold settings: {advice}"


def _changed(common: Mapping[str, Any], change: Mapping[str, Any] | None) -> dict[str, Any]:
    # A null of what the group does not have at all says nothing.
    change = {k: v for k, v in (change or {}).items() if v is not None or k in common}
    return {"_partial_": True, **change} if "_target_" in change else {**common, **change}


def naming_letter(message: str, letter: str, config: Mapping[str, Any], *, alone: bool) -> str:
    """``message`` with ``layers.S.attention.window (0)`` for ``window (0)``, if S has its own.

    Args:
        message: that refuses the layers of ``letter``.
        letter: of the pattern.
        config: as of ``kinds_of_layers``.
        alone: whether other letters are not refused so; then ``layers.S: `` stands before a message
            that names no setting of its own.
    """
    told = message
    for group, change in (config["layers"].get(letter) or {}).items():
        for name in map(re.escape, change or {}):
            own = rf"(?<![\w.])(?:{group}\.{name}\b|{name}(?= \())"
            told = re.sub(own, f"layers.{letter}.{group}.{name}", told)
        if told != message:
            told = told.replace(f"mean {group}.", f"mean layers.{letter}.{group}.")
    return f"layers.{letter}: {message}" if alone and told == message else told
