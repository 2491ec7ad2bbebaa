"""What the command line's grammar would change before a setting could see it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

_TEXT = ("data.path", "data.field", "data.tokenizer", "output_dir", "name")


def refuse_altered_text(overrides: Iterable[str]) -> None:
    """Refuses names that Hydra reads as a number and writes another way: ``1e3`` as ``1000.0``.

    Args:
        overrides: the command line's.

    Raises:
        ValueError: naming the setting, and how to write it.
    """
    for override in overrides:
        name, _, value = override.partition("=")
        if name.lstrip("+") not in _TEXT:
            continue
        for word in map(str.strip, value.strip("[]").split(",")):
            read = _as_read(word)
            if type(read) in (int, float) and str(read) != word:
                quoted = re.sub(rf"(?<![^\[, ]){re.escape(word)}(?![^\], ])", f'"{word}"', value)
                raise ValueError(
                    f"{name}={value} would be read as the number {read}: write '{name}={quoted}'"
                )


def _as_read(word: str) -> Any:
    try:
        return OverridesParser.create().parse_override(f"x={word}").value()
    except HydraException:  # part of something longer, or a mistake that Hydra explains itself
        return word
