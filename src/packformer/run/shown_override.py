"""Shows an override so that it can be pasted into a shell."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from hydra.core.override_parser.types import Quote, QuotedString

# What Hydra reads as this very text without quotes; numbers, `null`, `true` and the like are not.
_PLAIN = re.compile(
    r"[/.]*(?!(null|true|false|inf|nan)$)[a-z_][\w/.+@-]*", re.ASCII | re.IGNORECASE
)


def shown_override(name: str, value: str | Sequence[str]) -> str:
    """``NAME=VALUE`` for a command line: the shell, Hydra and OmegaConf read back the very value.

    Args:
        name: of the setting, such as ``data.path``.
        value: any text, or a list of texts. ``???`` alone is OmegaConf's word for a missing value,
            which no quoting changes.
    """
    if isinstance(value, str):
        return shlex.quote(f"{name}={_quoted(value)}")
    return shlex.quote(f"{name}=[{','.join(map(_quoted, value))}]")


def _quoted(text: str) -> str:
    if _PLAIN.fullmatch(text):
        return text
    # `\${` is OmegaConf's way to write `${`, and doubles the backslashes before it.
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    return QuotedString(literal, Quote.double).with_quotes()
