"""Every part of the configuration is there, and is what it must be: settings of a class, or one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep

from packformer.command_line.grammar import parse
from packformer.settings import shown

OF_CLASSES = (
    *("model", "attention", "position", "data", "packing", "loader", "optimizer", "scheduler"),
)
"""Settings of a class or function, which ``_target_`` names."""

_OF_VALUES = ("trainer", "guard")
"""Settings without a class of their own."""

_OF_NAMES = ("layers", "logger", "callbacks")  # what they hold has names; may be left out
_VALUES = (
    *("name", "seed", "resume", "init_from", "output_dir", "compile"),
    *(
        "loss_chunk",
        "z_loss",
        "weight_decay_schedule",
        "max_grad_norm",
        "objective",
        "deterministic",
    ),
)
_OF_TRAINER = (
    *("accelerator", "devices", "precision", "max_steps", "accumulate_grad_batches"),
    *("validate_every_n_steps", "log_every_n_steps"),
)
_NEEDED = (
    *(*OF_CLASSES, *_OF_VALUES, *_VALUES, "bpe_vocab_size", "hydra"),
    *(f"trainer.{name}" for name in _OF_TRAINER),
)


def refuse_removed(overrides: Iterable[str]) -> None:
    """Refuses ``~seed``: what every run needs cannot be taken out of the configuration.

    Args:
        overrides: of the command line.

    Raises:
        ValueError: naming the setting.
    """
    for override in overrides:
        name = override.removeprefix("~").partition("=")[0]
        if override.startswith("~") and name in _NEEDED:
            raise ValueError(
                f"~{name} takes {name} away, and every run needs it: leave ~{name} out"
            )


def refuse_two_experiments(overrides: Iterable[str]) -> None:
    """Refuses ``+experiment=nope experiment=gqa``, of which Hydra would take the last alone.

    Of ``+experiment=[nope,gqa]`` it would take both, and settings of the last where they differ.
    ``+experiment=nope,gqa``, two jobs of a sweep, is neither.

    Args:
        overrides: of the command line; other arguments of it may be among them.

    Raises:
        ValueError: naming both.
    """
    given = [one.lstrip("+") for one in overrides]
    both = [word for one in given if one.startswith("experiment=") for word in _one_by_one(one)]
    if len(both) > 1:
        choices = ",".join(dict.fromkeys(one.partition("=")[2] for one in both))
        raise ValueError(
            f"{' and '.join(both)} cannot be combined: keep one experiment and write settings "
            "instead of the other, such as position=none; variants to compare are one list, "
            f"+experiment={choices}"
        )


def _one_by_one(override: str) -> list[str]:
    """The overrides that a list of choices stands for; the first list among those of a sweep."""
    read = parse(override) if "[" in override else None
    if read is None:
        return [override]
    value = read.value()
    for one in value.list if isinstance(value, ChoiceSweep) else [value]:
        if isinstance(one, list) and len(one) > 1:
            return [f"{read.key_or_group}={choice}" for choice in one]
    return [override]


def check_groups(settings: Mapping[str, Any]) -> None:
    """Refuses a configuration that lacks a part, or has one value in place of a group.

    Args:
        settings: the resolved configuration, plain types only.

    Raises:
        ValueError: naming the part.
    """
    for name in (*OF_CLASSES, *_OF_VALUES, *_VALUES):
        if name not in settings:
            raise ValueError(f"{name} is missing: every run needs it")
    for name in (*OF_CLASSES, *_OF_VALUES):
        _check_holds_settings(name, settings[name])
    for name in OF_CLASSES:
        target = settings[name].get("_target_")
        if not isinstance(target, str) or not target:
            raise ValueError(
                f"{name} must have a _target_, the class or function that is made of it"
            )
    for name in _OF_NAMES:
        if settings.get(name) is not None:
            _check_holds_settings(name, settings[name])


def _check_holds_settings(name: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} ({shown(value)}) must hold settings: write {name}.SETTING=VALUE")
