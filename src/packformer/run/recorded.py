"""What ``config.yaml`` of a run holds: its configuration, with the sizes that the data decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_MARK = "resolved_from_data"
_CHOICES = "choices"
_COMMAND = "overrides"
_DATA = "data_fingerprint"
VOCABULARY = "model.vocab_size"


def recorded(
    config: Mapping[str, Any],
    vocab_size: int,
    choices: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
    fingerprint: str | None = None,
) -> dict[str, Any]:
    """``config`` with the model's vocabulary instead of null, and a mark that it was null.

    Args:
        config: resolved, plain types only.
        vocab_size: V, of the model.
        choices: that were made of groups, such as the experiment.
        overrides: of the command line, and of those before if the run was resumed: its name.
        fingerprint: of data that took the place of the run's; None if it has those it began with.
    """
    found = dict(config)
    model = config["model"]
    if model.get("vocab_size", vocab_size) is None:
        found |= {"model": {**model, "vocab_size": vocab_size}, _MARK: [VOCABULARY]}
    if choices:
        found[_CHOICES] = dict(choices)
    if overrides:
        found[_COMMAND] = list(overrides)
    if fingerprint is not None:
        found[_DATA] = fingerprint
    return found


def chosen(config: Mapping[str, Any]) -> dict[str, Any]:
    """What ``recorded`` was given, to be compared with other configurations."""
    found = {k: v for k, v in config.items() if k not in (_MARK, _CHOICES, _COMMAND, _DATA)}
    if VOCABULARY in (config.get(_MARK) or ()) and isinstance(found.get("model"), Mapping):
        found["model"] = {**found["model"], "vocab_size": None}
    return found


def choices_in(config: Mapping[str, Any]) -> dict[str, str]:
    """The choices of groups that a recorded configuration was made with; none of older runs."""
    choices = config.get(_CHOICES)
    return dict(choices) if isinstance(choices, Mapping) else {}


def overrides_in(config: Mapping[str, Any]) -> list[str]:
    """What the command lines gave that a recorded configuration came of; none of older runs."""
    overrides = config.get(_COMMAND)
    return [str(override) for override in overrides] if isinstance(overrides, list) else []


def new_data_in(config: Mapping[str, Any]) -> str | None:
    """The fingerprint of the data that took the place of those the run began with, if any did."""
    return config.get(_DATA)
