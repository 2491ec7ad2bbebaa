"""Refuses settings of the command line that no layer would have, where layers differ."""

from __future__ import annotations

import re
from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from packformer.layer_pattern import letters_of_layers

_OF_A_LETTER = re.compile(r"layers\.([^.=]+)\..*|layers\.([^\W\d_])$")
_OF_ALL = re.compile(r"(attention|position)(?:\.([^.]+).*)?$")


def refuse_ignored(config: DictConfig, overrides: Sequence[str]) -> None:
    """Refuses settings of letters that no layer has, and those that the letters of all replace.

    What ``init_from`` contradicts is refused elsewhere.

    Args:
        config: as it was composed, not resolved: an interpolation follows the setting of the group.
        overrides: of the command line.

    Raises:
        ValueError: naming the setting.
    """
    layers = config.get("layers")
    if not isinstance(layers, DictConfig) or config.get("init_from") is not None:
        return
    pattern = layers.get("pattern")
    num_layers = OmegaConf.select(config, "model.num_layers", throw_on_resolution_failure=False)
    # +debug takes layers away from a run that is otherwise as it was meant.
    debugs = any(override.startswith("+debug=") for override in overrides)
    present = _letters(pattern, None if debugs else num_layers)
    for override in overrides:
        name, _, value = override.lstrip("+").partition("=")
        if found := _OF_A_LETTER.match(name):
            if why := why_ignored(found[1] or found[2], pattern, present):
                raise ValueError(why)
        elif present and (found := _OF_ALL.match(name)):
            _check_common(name, value, found[1], found[2], present, layers)


def _letters(pattern: object, num_layers: object) -> str:
    """Of the layers that there are, bottom up; those of the pattern if ``num_layers`` is wrong."""
    if not isinstance(pattern, str):
        return ""
    if not pattern.isalpha() or type(num_layers) is not int or num_layers < 1:
        return pattern
    return letters_of_layers(pattern, num_layers)


def why_ignored(letter: str, pattern: object, present: str) -> str | None:
    """Why settings of ``layers.LETTER`` change no layer, and what to do; None if they change one.

    Args:
        letter: of the setting.
        pattern: ``layers.pattern``, as it was given.
        present: the letters of the layers that there are.
    """
    if len(letter) != 1 or (pattern is not None and not isinstance(pattern, str)):
        return None  # told as no letter, or no pattern
    if pattern is None:
        return (
            f"layers.{letter} changes no layer, as layers.pattern is null: choose "
            "layers=local_global, or write layers.pattern=..."
        )
    if letter not in pattern:
        meant = f"did you mean layers.{letter.swapcase()}?"
        advice = meant if letter.swapcase() in pattern else "leave it out, or change the pattern"
        return (
            f"layers.{letter} changes no layer, as layers.pattern ({pattern}) has no "
            f"{letter}: {advice}"
        )
    if letter not in present:
        return (
            f"layers.{letter} changes no layer, as layers.pattern ({pattern}) makes {present} of "
            f"model.num_layers ({len(present)}): leave it out, or give more layers"
        )
    return None


def _check_common(
    name: str, value: str, group: str, setting: str | None, present: str, layers: DictConfig
) -> None:
    letters = list(dict.fromkeys(present))
    if all(_replaces(layers.get(letter), group, setting) for letter in letters):
        owners = " and ".join(f"layers.{letter}" for letter in letters)
        have = "have their own" if len(letters) > 1 else "has its own"
        places = " and ".join(f"layers.{letter}.{name}" for letter in letters)
        raise ValueError(f"{name} ({value}) changes no layer, as {owners} {have}: set {places}")


def _replaces(kind: object, group: str, setting: str | None) -> bool:
    """Whether a letter leaves nothing to the setting, or to the choice, of the group."""
    own = kind.get(group) if isinstance(kind, DictConfig) else None
    if not isinstance(own, DictConfig):
        return False
    if "_target_" in own:
        return True
    return setting in own and not OmegaConf.is_interpolation(own, setting)
