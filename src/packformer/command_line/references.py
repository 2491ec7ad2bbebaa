"""``${NAME}`` on the command line refers to a setting. Whoever meant plain text is told so."""

from __future__ import annotations

import re
from collections.abc import Sequence

from omegaconf.errors import (
    GrammarParseError,
    InterpolationResolutionError,
    OmegaConfBaseException,
    UnsupportedInterpolationType,
)

from packformer.run.shown_override import shown_override

_REFERENCE = re.compile(r"\$\{([^}]*)\}")
_ESCAPED = re.compile(r"\\([{}])")  # as a sweep hands references to its jobs
_UNRESOLVED = (GrammarParseError, InterpolationResolutionError, UnsupportedInterpolationType)


def explain_reference(error: OmegaConfBaseException, overrides: Sequence[str]) -> str | None:
    """What is wrong with a ``${...}`` among ``overrides``, and how to write it as text.

    Args:
        error: of OmegaConf.
        overrides: the command line's.

    Returns:
        One line; None if ``error`` is another, or its reference is not the command line's.
    """
    if not isinstance(error, _UNRESOLVED):
        return None
    overrides = [_ESCAPED.sub(r"\1", override) for override in overrides]
    for override in overrides:
        name, _, value = override.partition("=")
        if any(reference in _names_of(name) for reference in _REFERENCE.findall(value)):
            return f"{override} refers to itself: give a value, or leave it out"
        if any(_is_about(error, reference) for reference in _REFERENCE.findall(value)):
            written = shown_override(name, value.strip("'\""))
            return f"{override} {_reason(error)}: if it is meant as text, write {written}"
    referring = [override for override in overrides if "${" in override]
    if referring and "Recursive interpolation" in str(error):
        return f"{' and '.join(referring)} cannot be resolved: a reference leads back to itself"
    return None


def _names_of(name: str) -> tuple[str, str]:
    """How a reference may name the setting that it is the value of."""
    name = name.lstrip("+")
    return name, f".{name.rpartition('.')[2]}"


def _is_about(error: OmegaConfBaseException, reference: str) -> bool:
    words = re.findall(r"[\w.-]+", reference)
    return any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", str(error)) for word in words)


def _reason(error: OmegaConfBaseException) -> str:
    first = str(error).splitlines()[0]
    if unset := re.search(r"Environment variable '(.+?)' not found", first):
        return f"refers to the environment variable {unset[1]}, which is not set"
    if key := re.search(r"Interpolation key '(.+?)' not found", first):
        return f"refers to a setting {key[1]}, and there is none"
    if "parent node" in first:
        return "refers to the group that it is part of"
    return f"cannot be resolved ({first})"
