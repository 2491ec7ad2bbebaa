"""What ``config.yaml`` of a run holds: its configuration, with the sizes that the data decided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MARK = "resolved_from_data"
VOCABULARY = "model.vocab_size"


def recorded(config: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    """``config`` with the model's vocabulary instead of null, and a mark that it was null.

    Args:
        config: resolved, plain types only.
        vocab_size: V, of the model.
    """
    model = config["model"]
    if model.get("vocab_size", vocab_size) is not None:
        return dict(config)
    return {**config, "model": {**model, "vocab_size": vocab_size}, _MARK: [VOCABULARY]}


def chosen(config: Mapping[str, Any]) -> dict[str, Any]:
    """What ``recorded`` was given, to be compared with other configurations."""
    found = {key: value for key, value in config.items() if key != _MARK}
    if VOCABULARY in (config.get(_MARK) or ()) and isinstance(found.get("model"), Mapping):
        found["model"] = {**found["model"], "vocab_size": None}
    return found
