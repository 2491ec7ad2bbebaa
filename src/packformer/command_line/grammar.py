"""What Hydra's grammar reads an override as."""

from __future__ import annotations

from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException


def parse(override: str) -> Override | None:
    """The override as Hydra reads it; None where its grammar does not take it."""
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        return None


def read_value(text: str) -> Any:
    """The value Hydra reads ``text`` as after the ``=``; None if it cannot, or for a sweep."""
    override = parse(f"x={text}")
    if override is None or override.is_sweep_override():
        return None
    return override.value()
