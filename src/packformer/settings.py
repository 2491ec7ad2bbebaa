"""Checks of single settings, all worded alike."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pkgutil import resolve_name
from typing import Any


def check_whole(name: str, value: Any, *, at_least: int) -> None:
    """Refuses anything but a whole number of at least ``at_least``.

    Raises:
        ValueError: naming the setting.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise ValueError(f"{name} ({value}) must be a whole number from {at_least} up")


def check_flag(name: str, value: Any) -> None:
    """Refuses anything but true and false: any other word would count as true.

    Raises:
        ValueError: naming the setting.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} ({value}) must be true or false")


def is_number(value: Any) -> bool:
    """Whether it is a finite number; YAML's ``.inf`` is not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def as_text(name: str, value: Any, kind: str) -> str:
    """A path or name as text: YAML reads ``2024`` as a number.

    Args:
        name: of the setting.
        value: of the setting.
        kind: what it must be, for the message.

    Raises:
        ValueError: naming the setting, if it is neither.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} ({'null' if value is None else value}) must be a {kind}")
    return value


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
    good = is_number(value)
    if above is not None:
        if not good or not value > above:
            raise ValueError(f"{name} ({value}) must be a number above {above:g}")
    elif at_least is not None and (not good or not value >= at_least):
        raise ValueError(f"{name} ({value}) must be a number from {at_least:g} up")
