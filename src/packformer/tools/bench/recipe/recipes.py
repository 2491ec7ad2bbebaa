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


# Every head has its own keys and values, and sees the whole of a block.
_PLAIN_ATTENTION = (
    "attention=mha",
    "attention.num_kv_heads=null",
    "attention.window=null",
    "attention.qk_norm=false",
    "attention.soft_cap=null",
    "attention.score_mod=null",
    "attention.across_documents=false",  # blocks do that
    "attention.restart_positions=true",
    "attention.value_embeddings=false",
    "layers=alike",
)
_ADAMW_OF_GPT = (
    "optimizer=adamw",
    "optimizer.beta1=0.9",
    "optimizer.beta2=0.95",
    "optimizer.eps=1e-8",
    "optimizer.weight_decay=0.1",
    "optimizer.embedding_rate_factor=1.0",
    "optimizer.head_rate_factor=1.0",
    "weight_decay_schedule=constant",
    "scheduler=cosine",
    "scheduler.final_factor=0.1",
    "max_grad_norm=1.0",
    "z_loss=null",
)
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
        Recipe(
            "nanogpt",
            "nanoGPT's rows, positions, AdamW and schedule; SwiGLU and RMSNorm as in the preset",
            "train.py and model.py of github.com/karpathy/nanoGPT, 3adf61e",
            (
                *_PLAIN_ATTENTION,
                "position=learned",  # model.py: wpe
                "packing.policy=blocks",  # train.py: get_batch
                *_ADAMW_OF_GPT,  # train.py: weight_decay, beta1, beta2, grad_clip, min_lr
            ),
        ),
        Recipe(
            "litgpt",
            "litgpt's model, initial weights, AdamW over all weights and schedule, in a plain loop",
            "litgpt/pretrain.py and config_hub/pretrain/debug.yaml of litgpt",
            ("position=rotary", "packing.policy=blocks", *_ADAMW_OF_GPT),
            library="litgpt",
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
