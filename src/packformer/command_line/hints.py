"""Explains why Hydra refused a command line, and guesses what was meant."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from packformer.command_line.early import CLASSES
from packformer.command_line.grammar import read_value
from packformer.command_line.known import (
    Known,
    choice_of,
    known_beside,
    name_of,
    settings_of_choices,
    value_of,
)
from packformer.command_line.letters import about_letter
from packformer.run.given import given_to
from packformer.run.nearest import nearest
from packformer.run.shown_override import shown_override
from packformer.run.trainer_settings import INSTEAD, PASSED_ON
from packformer.settings import shown

_EMPTY = "''"
_ALL = "`packformer train --cfg job` shows all"


def explain(message: str, overrides: Sequence[str]) -> str | None:
    """What to write instead, on one line; None if ``message`` is none of Hydra's refusals.

    Args:
        message: of Hydra's exception.
        overrides: the command line's.
    """
    for pattern, answer in _ANSWERS.items():
        if found := re.search(pattern, message, re.DOTALL):
            return answer(found, overrides)
    return None


def _no_setting(found: re.Match[str], overrides: Sequence[str]) -> str:
    name = name_of(found[1])
    known, value = known_beside(overrides), _value(name, overrides)
    for inner, unknown in _unknown(name, read_value(value), known):  # {skip:1}
        return _meant_by(inner, shown(unknown), known)
    return _meant_by(name, value, known)


def _unknown(name: str, value: object, known: Known) -> Iterator[tuple[str, object]]:
    """Settings in a dictionary that do not exist, and their values."""
    if not isinstance(value, dict):
        return
    for inner in value:
        place = f"{name}.{inner}"
        if place in known.settings:
            yield from _unknown(place, value[inner], known)
        elif name in known.settings:
            yield place, value[inner]


def no_setting(name: str, value: str, overrides: Sequence[str]) -> str:
    """Guesses what was meant by a setting that does not exist."""
    return _meant_by(name, value, known_beside(overrides))


def _meant_by(name: str, value: str, known: Known) -> str:
    if name in known.groups:
        return f"nothing of {name} is chosen yet, so it is added: write +{name}={value}"
    if told := about_letter(name, value, known):
        return told
    group, _, last = name.partition(".")
    if group == "trainer" and last in PASSED_ON:
        return f"{name} is not set yet, so it is added: write +{name}={value}"
    if group == "trainer" and last in INSTEAD:
        return f"{name} cannot be set: {INSTEAD[last]}"
    if told := _about_class(name, value, known):
        return told
    if meant := _group_meant(name, value, known):
        return f"there is no setting {name}: did you mean {meant}?"
    elsewhere = _keys_elsewhere(name, known)
    if name in elsewhere:
        return f"{name} is a setting of {' and '.join(elsewhere[name])}: choose it too"
    near = nearest(name, [*known.keys, *known.added]) or nearest(name, elsewhere)
    place = name.rpartition(".")[0]
    if near == name:
        return _with_others(name, place, known)
    if near is not None and near != place:
        meant = f"{'+' * (near in known.added)}{near}"
        of = f" (of {' and '.join(elsewhere[near])})" if near in elsewhere else ""
        return f"there is no setting {name}: did you mean {meant}{of}?"
    siblings = [k.rpartition(".")[2] for k in known.keys if place and k.rpartition(".")[0] == place]
    has = ", ".join(k for k in siblings if not k.startswith("_"))
    return f"there is no setting {name}: {f'{place} has {has}' if has else _ALL}"


def _about_class(name: str, value: str, known: Known) -> str | None:
    """A setting that its class takes, or may take, but the chosen YAML file does not list."""
    place, _, setting = name.rpartition(".")
    target = known.settings.get(f"{place}._target_")
    if target is None or name in known.settings or known.removes(name):
        return None
    if place.startswith("hydra.") or setting in given_to(place):
        return None
    if (known_class := CLASSES.get(str(target))) is not None:
        added = f"{name} is not set yet, so it is added: write +{name}={value}"
        return added if setting in known_class.rules else None
    listed = [key for key in known.keys if key.rpartition(".")[0] == place]
    listed = [key for key in listed if not key.startswith(f"{place}._")]
    if near := nearest(name, listed):
        return f"there is no setting {name}: did you mean {near}? Or add it: +{name}={value}"
    choice = known.settings.get(f"hydra.runtime.choices.{place}")
    has = ", ".join(key.rpartition(".")[2] for key in listed) or "none"
    holder = place if choice is None else f"{place}={choice}"
    return f"there is no setting {name}: {holder} has {has}; +{name}={value} adds one"


def _with_others(name: str, place: str, known: Known) -> str:
    """Of a setting that there is, but not with all that was chosen."""
    chosen = value_of(place, known.overrides)
    if chosen is None:
        return f"there is no setting {name} with all that was chosen: {_ALL}"
    if chosen.lower() == "null":
        return f"there is no setting {name} where {place} is null: leave {place}={chosen} out"
    return f"there is no setting {name} with all of {place}={chosen}: leave one of the two out"


def _group_meant(name: str, value: str, known: Known) -> str | None:
    """``+experiment=gqa`` for ``exp=gqa``, ``scheduler=cosine`` for ``schedule=cos``, ``data=text``
    for ``corpus=text``; None if no group was meant."""
    if "." in name:
        return None
    exact = [group for group, choices in known.groups.items() if value in choices]
    shorter = [group for group in known.groups if group.startswith(name)]
    similar = nearest(name, known.groups)
    candidates = [*exact, *shorter, *([similar] if similar in known.groups else [])]
    if not candidates:
        return None
    group = max(candidates, key=lambda g: (g in shorter or g == similar, candidates.count(g)))
    plus = "+" * (group in known.added)
    choices = known.groups[group]
    choice = value if value in choices else nearest(value, choices) or _begun(value, choices)
    if choice is not None:
        return f"{plus}{group}={choice}"
    return f"{plus}{group}" if group in shorter or group == similar else None


def _begun(value: str, choices: Sequence[str]) -> str | None:
    """The only choice that begins with ``value``."""
    found = [choice for choice in choices if value and choice.startswith(value)]
    return found[0] if len(found) == 1 else None


def _keys_elsewhere(name: str, known: Known) -> dict[str, list[str]]:
    """Settings that other choices of the group have, and which: ``data.path``: ``data=text``."""
    group = name.partition(".")[0]
    if group not in known.groups or group not in known.keys:
        return {}
    found: dict[str, list[str]] = {}
    for choice, keys in settings_of_choices(group, known).items():
        for key in keys:
            if key.startswith(f"{group}.") and key not in known.settings:
                found.setdefault(key, []).append(choice)
    return found


def _no_choice(found: re.Match[str], overrides: Sequence[str]) -> str:
    group = found[2]
    choice = found[1].removeprefix(f"{group}/")
    options = found[3].split()
    plus = "+" * any(o.startswith(f"+{group}=") for o in overrides)
    near = nearest(choice, options) or _begun(choice, options)
    meant = f"did you mean {plus}{group}={near}? There" if near else "there"
    return f"there is no {group}={choice or _EMPTY}: {meant} are {', '.join(options)}"


def _several(found: re.Match[str], overrides: Sequence[str]) -> str:
    name, _, value = found[1].partition("=")
    return (
        f"{found[1]} is several values: a sweep over them needs -m (packformer train -m ...), "
        f"a list brackets, one text quotes: {shown_override(name, value)}"
    )


def _no_override(found: re.Match[str], overrides: Sequence[str]) -> str:
    given = found[1]
    if given.startswith("-"):
        return f"there is no option {given}: `packformer train --hydra-help` shows all"
    known = known_beside(overrides)
    chosen = [group for group, choices in known.groups.items() if given in choices]
    if chosen:
        plus = "+" * (chosen[0] in known.added)
        return f"{given} is no setting: did you mean {plus}{chosen[0]}={given}?"
    before = list(overrides)[: list(overrides).index(given)] if given in overrides else []
    name, separator, start = before[-1].partition("=") if before else ("", "", "")
    if separator and "-" not in name:
        written = shown_override(name, f"{start} {given}")
        return (
            f"{given} is no setting: write NAME=VALUE; a value with a space needs quotes: {written}"
        )
    return f"{given} is no setting: write NAME=VALUE"


def _no_word(found: re.Match[str], overrides: Sequence[str]) -> str | None:
    groups = known_beside(overrides).groups
    for override in overrides:
        group, value = name_of(override), choice_of(override)
        if group in groups and value not in groups[group]:
            return f"there is no {group}={value}: there are {', '.join(groups[group])}"
    return None


def _no_value(found: re.Match[str], overrides: Sequence[str]) -> str:
    name, _, value = found[1].partition("=")
    if any(key.startswith(f"{name}.") for key in known_beside(overrides).keys):
        return f"{name} ({value or _EMPTY}) must hold settings: write {name}.SETTING=VALUE"
    return (
        f"{name} ({value or _EMPTY}) must be of the type of its default: "
        f"`packformer train --cfg all` shows that"
    )


def _no_file(found: re.Match[str], overrides: Sequence[str]) -> str | None:
    group, _, choice = found[1].rpartition("/")
    choices = known_beside(overrides).groups.get(group)
    if choices is None:
        return None
    return f"there is no {group}={choice}: there are {', '.join(choices)}"


def _without_plus(found: re.Match[str], overrides: Sequence[str]) -> str:
    name = found[1]
    return f"{name} is there already: write {name}={_value(name, overrides)}"


def _value(name: str, overrides: Sequence[str]) -> str:
    return value_of(name, overrides) or "..."


_ANSWERS: dict[str, Callable[[re.Match[str], Sequence[str]], str | None]] = {
    r"Could not override '(.+?)'": _no_setting,
    r"Could not delete from config. '(.+?)' does not exist": _no_setting,
    r"Could not find '([^']*)'\s+Available options in '([^']+)':(.*?)(?:Config search|$)": (
        _no_choice
    ),
    r"Could not load '([\w/]+)'": _no_file,
    r"Error merging override ([^\n]+)": _no_value,
    r"Multiple values for (\S+)\. ": _without_plus,
    r"An item is already at '(.+?)'": _without_plus,
    r"force-add of config groups is not supported: '\+\+(.+?)=": _without_plus,
    r"Ambiguous value for argument '(.+?)'\n": _several,
    r"Error parsing override '(.+?)'\s+missing EQUAL": _no_override,
    r"Config group override must be a string or a list": _no_word,
    r"LexerNoViableAltException: ([^\n]+?)\n": _no_override,
}
