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
    for override in overrides:
        name, _, value = override.partition("=")
        if any(_is_about(error, reference) for reference in _REFERENCE.findall(value)):
            written = shown_override(name, value.strip("'\""))
            return f"{override} {_reason(error)}: if it is meant as text, write {written}"
    return None


def _is_about(error: OmegaConfBaseException, reference: str) -> bool:
    words = re.findall(r"[\w.-]+", reference)
    return any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", str(error)) for word in words)


def _reason(error: OmegaConfBaseException) -> str:
    first = str(error).splitlines()[0]
    if unset := re.search(r"Environment variable '(.+?)' not found", first):
        return f"refers to the environment variable {unset[1]}, which is not set"
    if key := re.search(r"Interpolation key '(.+?)' not found", first):
        return f"refers to a setting {key[1]}, and there is none"
    return f"cannot be resolved ({first})"
