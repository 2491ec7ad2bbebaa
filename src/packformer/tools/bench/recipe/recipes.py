"""The recipes that are compared: how a model of given sizes is trained."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """One way to train.

    Attributes:
        name: what it is called.
        what: it is, in a few words.
        source: where its numbers are from.
        overrides: that make it of a preset, as of ``packformer train``.
        library: whose model and loop train instead of packformer's; empty for packformer's.
    """

    name: str
    what: str
    source: str
    overrides: tuple[str, ...]
    library: str = ""


# Peak learning rate, warm-up steps, steps and tokens of a step are the preset's in every recipe.
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "adamw",
            "the preset, with AdamW",
            "conf/optimizer/adamw.yaml",
            ("optimizer=adamw",),
        ),
        Recipe(
            "muon",
            "the preset, with Muon for the matrices of the blocks",
            "conf/optimizer/muon.yaml",
            ("optimizer=muon",),
        ),
    )
}


def recipes_of(words: Sequence[str]) -> list[Recipe]:
    """The recipes that are named, or given as ``NAME: SETTING=VALUE ...``.

    Raises:
        ValueError: if one is unknown or given twice, or there is nothing to compare.
    """
    found = [_recipe(word) for word in words]
    names = [recipe.name for recipe in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"--recipes names {twice[0]} twice: give each recipe once")
    if len(found) < 2:
        raise ValueError(
            f"--recipes ({names[0]}) leaves nothing to compare: name two or more, such as "
            "--recipes adamw muon"
        )
    return found


def _recipe(word: str) -> Recipe:
    if word in RECIPES:
        return RECIPES[word]
    name, colon, settings = word.partition(":")
    if not colon or not re.fullmatch(r"[\w.-]*\w", name):
        raise ValueError(
            f"--recipes ({word}): there is no such recipe; choose from {', '.join(RECIPES)}, or "
            "write your own, such as 'fast: optimizer=muon optimizer.learning_rate=3e-3'"
        )
    if name in RECIPES:
        raise ValueError(f"--recipes ({word}): {name} is one of the known recipes, name yours anew")
    try:
        overrides = tuple(shlex.split(settings))
    except ValueError as error:
        raise ValueError(f"--recipes ({word}) cannot be read: {error}") from error
    if not all("=" in override or override.startswith("~") for override in overrides):
        raise ValueError(f"--recipes ({word}) must list settings: write '{name}: SETTING=VALUE'")
    return Recipe(name, "yours", "the command line", overrides)


def with_recipe(overrides: Sequence[str], recipe: Recipe) -> list[str]:
    """Settings of all recipes, and those of this one, which win where both give one."""
    own = {setting_of(override) for override in recipe.overrides}
    return [one for one in overrides if setting_of(one) not in own] + list(recipe.overrides)


def setting_of(override: str) -> str:
    """The name of what it sets."""
    return override.lstrip("+~").partition("=")[0]
