"""No secret reaches a file or a server: configurations and command lines are recorded in clear."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any

_SECRET = re.compile(
    r"api_?key|secret|password|passwd|credential|(access|auth|hf|api)_?token", re.IGNORECASE
)
_SHORTEST = 8  # characters; shorter values of the environment are words, not secrets


def refuse_secrets(config: Any, overrides: Iterable[str]) -> None:
    """Refuses keys that name a secret, and values that the environment holds as one.

    Args:
        config: the resolved configuration.
        overrides: the command line's.

    Raises:
        ValueError: naming the key, never the value.
    """
    known = [v for k, v in os.environ.items() if _SECRET.search(k) and len(v) >= _SHORTEST]
    given = [
        (name.lstrip("+~"), value)
        for name, separator, value in (override.partition("=") for override in overrides)
        if separator
    ]
    for key, value in [*given, *_leaves(config, "")]:
        named = _SECRET.search(key) and value not in (None, "", "null")
        if named or any(secret in str(value) for secret in known):
            raise ValueError(
                f"{key} looks like a secret, and configurations are logged in clear: "
                "use an environment variable such as WANDB_API_KEY"
            )


def _leaves(node: Any, path: str) -> Iterable[tuple[str, Any]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _leaves(value, f"{path}.{name}" if path else str(name))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _leaves(value, f"{path}[{index}]")
    else:
        yield path, node
