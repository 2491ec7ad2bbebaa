"""Guesses what was meant by a setting of a letter of ``layers.pattern`` that does not exist."""

from __future__ import annotations

import re

from packformer.command_line.early import CLASSES
from packformer.command_line.grammar import read_value
from packformer.command_line.ignored_layers import why_ignored
from packformer.command_line.known import Known, name_of
from packformer.layer_pattern import GROUPS_OF_LETTERS, no_choice
from packformer.run.nearest import nearest

_OF_A_LETTER = re.compile(r"(layers\.([A-Za-z]))(\..+)?")
_OF_ANOTHER_RUN = ("init_from", "resume")


def about_letter(name: str, value: str, known: Known) -> str | None:
    """What to write instead, in one line; None if ``name`` is no setting of a letter.

    What is meant for some layers is never taken for a setting of all: ``attention.qk_norm`` is no
    advice for ``layers.S.attention.qk_norm``.

    Args:
        name: of a setting that does not exist.
        value: as it was given.
        known: what there is to be set.
    """
    found = _OF_A_LETTER.fullmatch(name)
    if found is None:
        return None
    place, letter = found[1], found[2]
    if not any(name_of(override) in _OF_ANOTHER_RUN for override in known.overrides):
        pattern = known.value("layers.pattern")
        if why := why_ignored(letter, pattern, str(pattern)):
            return why
    removed = known.removes(name)
    groups = {f"{place}.{group}": group for group in GROUPS_OF_LETTERS}
    if name in groups and not removed and not isinstance(read_value(value), dict | None):
        return no_choice(name, value)
    settings = {held: _settings(held, group, known) for held, group in groups.items()}
    holder = next((held for held in groups if name.startswith(f"{held}.")), None)
    if not removed and (name in (place, *groups) or _is_there(name, holder, settings)):
        return f"{name} is not set yet, so it is added: write +{name}={value}"
    every = [f"{held}.{setting}" for held, names in settings.items() for setting in names or ()]
    every = [key for key in every if key in known.settings] if removed else every
    if (near := nearest(name, every)) and near != name:
        plus = "+" * (near not in known.settings)
        return f"there is no setting {name}: did you mean {plus}{near}?"
    if holder is None:
        return (
            f"there is no setting {name}: {place} has settings of {' and '.join(groups.values())}"
        )
    has = [key for key in every if key.startswith(f"{holder}.")]
    shown = ", ".join(key.removeprefix(f"{holder}.") for key in has)
    return f"there is no setting {name}: {holder} has {shown or 'none'}"


def _is_there(name: str, holder: str | None, settings: dict[str, list[str] | None]) -> bool:
    """Whether the class of the holder takes the setting, or may."""
    if holder is None:
        return False
    names = settings[holder]
    setting = name.removeprefix(f"{holder}.").partition(".")[0]
    return names is None or setting in (*names, "_target_")


def _settings(held: str, group: str, known: Known) -> list[str] | None:
    """Names of those that ``layers.S.attention`` can have; None if only its own class knows."""
    own = known.value(f"{held}._target_")
    target = own or known.value(f"{group}._target_")
    listed = [held] if own else [held, group]
    names = [key.rpartition(".")[2] for key in known.keys if key.rpartition(".")[0] in listed]
    rules = CLASSES.get(str(target))
    if rules is None:
        return None
    return sorted({name for name in (*names, *rules.rules) if not name.startswith("_")})
