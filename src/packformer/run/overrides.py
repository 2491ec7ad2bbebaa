"""What the command line's grammar would change before a setting could see it."""

from __future__ import annotations

import re
from collections.abc import Iterable

_TEXT = ("data.path", "data.field", "data.tokenizer", "output_dir", "name")
_WHOLE = re.compile(r"[+-]?(0|[1-9](_?\d)*)")
_FRACTION = re.compile(r"[+-]?(\d(_?\d)*\.?|\d(_?\d)*\.\d(_?\d)*|\.\d(_?\d)*)(e[+-]?\d+)?", re.I)


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
        for text in value.strip("[]").split(","):
            read = _number(text.strip())
            if read is not None and str(read) != text.strip():
                raise ValueError(
                    f"{name}={value} would be read as the number {read}: "
                    f"""write '{name}={value.replace(text.strip(), f'"{text.strip()}"')}'"""
                )


def _number(text: str) -> float | None:
    if _WHOLE.fullmatch(text):
        return int(text)
    is_padded = text.isdigit()  # 007 stays text
    return float(text) if _FRACTION.fullmatch(text) and not is_padded else None
