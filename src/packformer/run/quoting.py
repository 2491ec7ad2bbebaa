"""Overrides as they can be pasted into a shell."""

from __future__ import annotations

import re
import shlex
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

_MISSING = "???"  # OmegaConf's word for a value that is yet to be given, quoted or not


def shown_override(name: str, value: str) -> str:
    """``name=value`` for a shell, so that the setting is ``value``, letter by letter.

    Quotes stand only where the shell or Hydra's grammar needs them.

    Args:
        name: of the setting, such as ``data.path``.
        value: any text; for a path of the name ``???`` the same file as ``./???``.
    """
    if value == _MISSING:
        value = f"./{_MISSING}"
    plain = "${" not in value and read_value(value) == value
    written = value if plain else quoted(value)
    return shlex.quote(f"{name}={written}")


def read_value(text: str) -> Any:
    """What Hydra reads ``text`` as behind the ``=``; None too where it cannot."""
    override = parse(f"x={text}")
    if override is None or override.is_sweep_override():
        return None
    return override.value()


def parse(override: str) -> Override | None:
    """The override as Hydra reads it; None where its grammar does not take it."""
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        return None


def quoted(value: str) -> str:
    """``value`` between quotes of Hydra's grammar, to be taken letter by letter."""
    # OmegaConf takes ${ for a reference unless a backslash precedes it.
    plain = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return QuotedString(plain, Quote.double).with_quotes()
