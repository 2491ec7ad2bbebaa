"""Refuses values that Hydra's grammar cannot read, or would change on the way to a setting."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Sequence
from importlib.resources import files

from hydra._internal.utils import get_args_parser

from packformer.command_line.grammar import parse, read_value
from packformer.command_line.known import known_beside
from packformer.layer_pattern import letters_of_layers
from packformer.run.nearest import nearest
from packformer.run.shown_override import shown_override

_TEXT = (
    *("data.path", "data.field", "data.tokenizer", "output_dir", "name", "resume"),
    *("logger.wandb.project", "logger.wandb.entity"),
)
_FOLDERS = ("output_dir", "hydra.run.dir", "hydra.sweep.dir")
_PATTERN = "layers.pattern"
_OF_A_LETTER = re.compile(r"[+~]*(layers\.([^\W\d_]))(?![^.])")
_QUOTES = ('"', "'")
_IN_QUOTES = r"""("[^"]*"|'[^']*')"""


def settings_last(arguments: Sequence[str]) -> list[str]:
    """The same arguments in an order that Hydra accepts: it refuses settings after an option.

    Raises:
        ValueError: if an option is none of Hydra's.
    """
    settings = _read(arguments).overrides
    options = list(arguments)
    for setting in settings:
        options.remove(setting)
    return [*options, *settings]


def asks_for_sweep(arguments: Sequence[str]) -> bool:
    """Whether Hydra would start a sweep: by ``-m`` or ``--multirun``, or by ``hydra.mode``.

    Raises:
        ValueError: if an option is none of Hydra's.
    """
    read = _read(arguments)
    return read.multirun or "hydra.mode=MULTIRUN" in (one.lstrip("+") for one in read.overrides)


def _read(arguments: Sequence[str]) -> argparse.Namespace:
    """Hydra's reading of ``arguments``, of which the options are checked."""
    parser = get_args_parser()
    parser.exit_on_error = False
    options = [option for action in parser._actions for option in action.option_strings]
    for word in arguments:
        one_dash = re.match(r"-\w\w", word) and word not in options
        if one_dash and (near := nearest(f"-{word}", options)):
            raise ValueError(f"there is no option {word}: did you mean {near}?")
    try:
        read, unknown = parser.parse_known_intermixed_args(arguments)
    except argparse.ArgumentError as error:
        raise ValueError(f"option {error.argument_name}: {error.message}") from error
    if unknown:
        near = nearest(unknown[0].partition("=")[0], options)
        meant = f"did you mean {near}?" if near else "`packformer train --hydra-help` shows all"
        raise ValueError(f"there is no option {unknown[0]}: {meant}")
    return read


def refuse_altered_text(overrides: Sequence[str]) -> None:
    """Refuses overrides that Hydra cannot read, and text that it would read as something else.

    Text is a path or a name: ``1e3`` would be the number ``1000.0``, ``a[1].txt`` is no value.

    Args:
        overrides: the command line's.

    Raises:
        ValueError: naming the setting, and how to write it.
    """
    for override in overrides:
        name, separator, value = override.partition("=")
        if separator and not name.lstrip("+~"):
            raise ValueError(
                f"{override} names no setting: write NAME=VALUE, without spaces around ="
            )
        if (letter := _OF_A_LETTER.match(name)) and not letter[2].isascii():
            raise ValueError(f"{letter[1]} names no layers: letters of {_PATTERN} are A to Z")
        if not separator or parse(f"{name}=x") is None:  # no setting: Hydra says so
            continue
        if name.lstrip("+") == _PATTERN:
            _refuse_no_pattern(override, value)
        if parse(override) is None:
            raise ValueError(f"{override} cannot be read: write {_shown(name, value)}")
        _refuse_no_choices(name.lstrip("+"), value, overrides)
        if name.lstrip("+") in _FOLDERS and not value.strip("'\" "):
            raise ValueError(f"{name.lstrip('+')} (empty) must be a path: . is this folder")
        if name.lstrip("+") in _TEXT:
            _refuse_altered(name, value)


def refuse_lost_lists(overrides: Sequence[str]) -> None:
    """Refuses a list of values whose setting is given again after it, and a value that is listed
    twice.

    Of the former Hydra would take the last alone. The latter would be trained twice.

    Otherwise the last one counts, so that a command can be repeated with changes.

    Args:
        overrides: of the command line; other arguments of it may be among them.

    Raises:
        ValueError: naming both.
    """
    read = [(text, parse(text)) for text in overrides if "=" in text]
    for place, (text, override) in enumerate(read, 1):
        if override is None or not override.is_sweep_override():
            continue
        name = override.key_or_group
        for other, again in read[place:]:
            if again is not None and name == again.key_or_group:
                raise ValueError(
                    f"{text} lists values of {name}, and {other} gives it another: leave one out"
                )
        if override.is_discrete_sweep():
            values = list(override.sweep_string_iterator())
            for value in values:
                if values.count(value) > 1:
                    raise ValueError(f"{text} lists {value} twice: list each value once")


def _refuse_no_pattern(override: str, value: str) -> None:
    """Refuses what quotes would not make a pattern, and letters that are read as null."""
    if parse(override) is None:
        letters_of_layers(value.strip("'\""), 1)
    for word in re.findall(r"\bnull\b", re.sub(_IN_QUOTES, "", value), re.IGNORECASE):
        if word != "null":
            quoted = re.sub(rf"\b{word}\b", f'"{word}"', value)
            written = shlex.quote(f"{_PATTERN}={quoted}")
            raise ValueError(
                f"{override} would be read as {value.replace(word, 'null')}, and null makes all "
                f"layers alike: write null if that is meant, or {written} for these letters"
            )


def _refuse_no_choices(group: str, value: str, overrides: Sequence[str]) -> None:
    """Refuses what is no word in a list of choices, and a path, which Hydra does not expect."""
    place = files("packformer.conf") / group
    read = read_value(value)
    if not isinstance(read, list | str) or not group.isidentifier() or not place.is_dir():
        return
    for choice in read if isinstance(read, list) else [read]:
        if not isinstance(choice, str) or {"", ".", ".."} & set(choice.split("/")[:-1]):
            known = known_beside(overrides).groups[group]
            shown = "null" if choice is None else choice
            raise ValueError(
                f"{group}={value} must name choices: {shown} is none, there are {', '.join(known)}"
                if isinstance(read, list)
                else f"there is no {group}={value}: there are {', '.join(known)}"
            )


def _refuse_altered(name: str, value: str) -> None:
    if value.startswith(_QUOTES):
        return
    read = read_value(value)
    if isinstance(read, dict):
        raise ValueError(
            f"{name}={value} would be read as a dictionary: write {_shown(name, value)}"
        )
    if isinstance(read, str | int | float):
        if not isinstance(read, bool) and str(read) != value:
            kind = "" if isinstance(read, str) else "the number "
            raise ValueError(
                f"{name}={value} would be read as {kind}{read}: write {_shown(name, value)}"
            )
        return
    for word in map(str.strip, value.strip("[]").split(",")):  # a list, or several jobs of a sweep
        read = read_value(word)
        if type(read) in (int, float) and str(read) != word:
            quoted = re.sub(rf"(?<![^\[, ]){re.escape(word)}(?![^\], ])", f'"{word}"', value)
            raise ValueError(
                f"{name}={value} would be read as the number {read}: "
                f"write {shlex.quote(f'{name}={quoted}')}"
            )


def _shown(name: str, value: str) -> str:
    """With the value quoted; in a list, each word that is not part of the grammar."""
    if value.startswith("[") and value.endswith("]") and not set(value[1:-1]) & set("[]{}()'\""):
        return shown_override(name, [word.strip() for word in value[1:-1].split(",")])
    return shown_override(name, value)
