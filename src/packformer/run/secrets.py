"""Keeps secrets out of files and servers, because configurations are recorded in plain text."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any

from packformer.masking import masked, refuse_credential, refuse_credentials

_SECRET = re.compile(
    r"api_?key|secret|password|passwd|passphrase|credential|(^|[._])(pwd|jwt)$"
    r"|(access|auth|hf|api|gh|github|gitlab|job)_?token|(^|\.)token$",
    re.IGNORECASE,
)
_FOLDERS = {"PWD", "OLDPWD"}  # of the environment, which the shell sets
_SHORTEST = 8  # characters; shorter values of the environment are words, not secrets
_SURE = 16  # characters; values as long are secrets within longer text too


def refuse_secrets(config: Any, overrides: Iterable[str]) -> None:
    """Refuses settings named like a secret, values that look like one, and values that the
    environment holds as a secret.

    Args:
        config: the resolved configuration.
        overrides: the command line's.

    Raises:
        ValueError: naming the key; of the value it shows what is no secret.
    """
    overrides = list(overrides)
    known = {
        value: name
        for name, value in os.environ.items()
        if _SECRET.search(name) and name not in _FOLDERS and len(value) >= _SHORTEST
    }
    given = [
        (name.lstrip("+~"), value)
        for name, separator, value in (override.partition("=") for override in overrides)
        if separator
    ]
    for key, value in [*given, *_leaves(config, "")]:
        if _SECRET.search(key) and value not in (None, "", "null"):
            raise ValueError(
                f"{masked(key)} looks like a secret, and configurations are logged in clear: "
                "use an environment variable such as WANDB_API_KEY"
            )
        refuse_credential(str(value), f"{key} ({value})")
        for secret, variable in known.items():
            if str(value) == secret or (len(secret) >= _SURE and secret in str(value)):
                raise ValueError(
                    f"{masked(key)} holds the value of the environment variable {variable}, and "
                    "configurations are logged in clear: leave it out"
                )
    refuse_credentials(overrides)


def _leaves(node: Any, path: str) -> Iterable[tuple[str, Any]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _leaves(value, f"{path}.{name}" if path else str(name))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _leaves(value, f"{path}[{index}]")
    else:
        yield path, node
