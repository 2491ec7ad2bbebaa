"""Checks of single settings, all worded alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pkgutil import resolve_name
from typing import Any

_SHOWN = 80  # characters of a value in a message
MOST_STEPS = 2**53
"""Of a run: as many as a float can count, which rates and metrics are computed in."""


@dataclass(frozen=True)
class Rule:
    """What the value of a setting must be.

    Attributes:
        text: completes "must be ...".
        holds: whether a value is right, however large.
        most: the largest that is right; None where values are no numbers.
    """

    text: str
    holds: Callable[[Any], bool]
    most: float | None = None

    def check(self, name: str, value: Any) -> None:
        """Refuses what is not right.

        Raises:
            ValueError: naming the setting.
        """
        if not self.holds(value):
            raise ValueError(f"{name} ({shown(value)}) must be {self.text}")
        if self.most is not None and value is not None and value > self.most:
            raise ValueError(f"{name} ({shown(value)}) must be at most {_bound(self.most)}")

    def or_null(self) -> Rule:
        """The same, and null is right, too."""
        return Rule(f"{self.text}, or null", lambda v: v is None or self.holds(v), self.most)


def whole(at_least: int, most: int = 2**64 - 1) -> Rule:
    """A whole number in range."""

    def holds(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= at_least

    return Rule(f"a whole number from {at_least} up", holds, most)


def number(
    *, above: float | None = None, at_least: float | None = None, most: float = 1e30
) -> Rule:
    """A finite number in range."""
    if above is not None:
        return Rule(f"a number above {above:g}", lambda v: is_number(v) and v > above, most)
    low = -math.inf if at_least is None else at_least
    text = "a number" if at_least is None else f"a number from {at_least:g} up"
    return Rule(text, lambda v: is_number(v) and v >= low, most)


def one_of(*choices: str) -> Rule:
    """One of some words."""
    return Rule(f"one of {', '.join(choices)}", lambda v: isinstance(v, str) and v in choices)


def text(kind: str) -> Rule:
    """A path or name; YAML reads ``2024`` as a number."""

    def holds(value: Any) -> bool:
        named = isinstance(value, int | float) and not isinstance(value, bool)
        return named or (isinstance(value, str) and bool(value.strip()))

    return Rule(f"a {kind}", holds)


def inner(kind: str) -> Rule:
    """A name, with folders or not, that does not lead out of the folder it begins in."""
    named = text(kind)

    def holds(value: Any) -> bool:
        parts = str(value).split("/")
        return named.holds(value) and parts[0] not in ("", "~") and ".." not in parts

    return Rule(f"a {kind} that does not lead out of its folder", holds)


def listed(rule: Rule, kind: str) -> Rule:
    """A list, each of whose values is right."""

    def holds(values: Any) -> bool:
        return isinstance(values, list | tuple) and all(
            rule.holds(v) and (rule.most is None or v <= rule.most) for v in values
        )

    return Rule(f"a list of {kind}", holds)


FLAG = Rule("true or false", lambda value: isinstance(value, bool))
ANYTHING = Rule("anything", lambda value: True)
"""Checked where it is used."""

Rules = Mapping[str, Rule]


def check_settings(group: str, rules: Rules, values: Mapping[str, Any]) -> None:
    """Checks each value by the rule of its name; names without one are left alone.

    Raises:
        ValueError: naming the setting with its group.
    """
    for name, value in values.items():
        if name in rules:
            rules[name].check(f"{group}.{name}", value)


def shown(value: Any) -> str:
    """A value as it is written on the command line, cut where it is long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        told = f"[{', '.join(map(shown, value))}]"
    else:
        told = str(value) or "empty"
    return told if len(told) <= _SHOWN else f"{told[:_SHOWN]}..."


def _bound(most: float) -> str:
    return f"{most:,}" if isinstance(most, int) else f"{most:g}"


def check_whole(name: str, value: Any, *, at_least: int) -> None:
    """Refuses anything but a whole number of at least ``at_least``.

    Raises:
        ValueError: naming the setting.
    """
    whole(at_least).check(name, value)


def check_flag(name: str, value: Any) -> None:
    """Refuses anything but true and false: any other word would count as true.

    Raises:
        ValueError: naming the setting.
    """
    FLAG.check(name, value)


def is_number(value: Any) -> bool:
    """Whether it is a finite number; YAML's ``.inf`` is not."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -math.inf < value < math.inf  # of any length, which `math.isfinite` does not take


def as_text(name: str, value: Any, kind: str) -> str:
    """A path or name as text: YAML reads ``2024`` as a number.

    Args:
        name: of the setting.
        value: of the setting.
        kind: what it must be, for the message.

    Raises:
        ValueError: naming the setting, if it is neither.
    """
    text(kind).check(name, value)
    return str(value)


def imported(name: str, place: str) -> Any:
    """What stands at a place such as ``my_parts.mine``, that a setting names.

    Raises:
        ValueError: naming the setting, if it cannot be imported.
    """
    try:
        return resolve_name(place)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{name} ({place}) cannot be imported: {error}") from error


def name_of(function: Callable[..., Any]) -> str:
    """What a message calls a function or class, or a ``partial`` of one."""
    function = function.func if isinstance(function, partial) else function
    return getattr(function, "__qualname__", type(function).__name__)


def check_number(
    name: str, value: Any, *, above: float | None = None, at_least: float | None = None
) -> None:
    """Refuses anything but a number in range.

    Raises:
        ValueError: naming the setting.
    """
    number(above=above, at_least=at_least).check(name, value)


def check_sampling(temperature: float, top_k: int | None, top_p: float | None, seed: int) -> None:
    """Refuses settings by which no token can be drawn.

    Args:
        temperature: divides the logits.
        top_k: likeliest tokens that are drawn from; None for all.
        top_p: probability that is drawn from; None for all.
        seed: of the random numbers.

    Raises:
        ValueError: if a number is out of range.
    """
    check_number("temperature", temperature, at_least=0)
    if top_k is not None:
        check_whole("top_k", top_k, at_least=1)
    if top_p is not None:
        check_number("top_p", top_p, above=0)
        if top_p > 1:
            raise ValueError(f"top_p ({top_p}) must be at most 1")
    check_whole("seed", seed, at_least=0)
