"""Checks settings of packformer's own classes before torch is imported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from packformer import requirements as of
from packformer.layer_pattern import kinds_of_layers, letters_of_layers, naming_letter
from packformer.run.targets import refuse_absent, refuse_unknown, targets_of
from packformer.settings import (
    ANYTHING,
    FLAG,
    Rule,
    Rules,
    check_settings,
    inner,
    one_of,
    shown,
    text,
    whole,
)


@dataclass(frozen=True)
class _Class:
    """A class or function that a ``_target_`` names.

    Attributes:
        rules: of its settings.
        related: checks how settings go together, once each is right by itself.
        complete: whether it has no other settings.
        needed: settings without a default.
    """

    rules: Rules
    related: Callable[..., None] | None = None
    complete: bool = True
    needed: tuple[str, ...] = ()


_CHECKPOINT: Rules = {
    "filename": inner("name").or_null(),
    "dirpath": text("path").or_null(),
    "monitor": text("name").or_null(),
    "mode": one_of("min", "max"),
    "save_top_k": whole(-1),
    "verbose": FLAG,
    "save_weights_only": FLAG,
    "auto_insert_metric_name": FLAG,
    "every_n_train_steps": whole(0).or_null(),
    "every_n_epochs": whole(0).or_null(),
    "enable_version_counter": FLAG,
}
_WORD = Rule(
    "a word or number that does not lead out of its folder, or null",
    lambda v: v is None or v == "" or (not isinstance(v, float) and inner("word").holds(v)),
)
_TENSORBOARD: Rules = {
    "name": _WORD,
    "version": _WORD,
    "log_graph": FLAG,
    "default_hp_metric": FLAG,
}
_SIZES = ("num_layers", "width", "num_heads")
_STEPS = ("num_steps",)
CLASSES: dict[str, _Class] = {
    "packformer.model.GPT": _Class(of.MODEL, of.check_model, needed=_SIZES),
    "packformer.model.SelfAttention": _Class(of.ATTENTION),
    "packformer.nn.Rotary": _Class(of.ROTARY),
    "packformer.nn.ALiBi": _Class(of.ALIBI),
    "packformer.nn.Learned": _Class({}),
    "packformer.nn.NoPosition": _Class({}),
    "packformer.data.PackingSettings": _Class(of.PACKING, needed=("row_length",)),
    "packformer.data.PackedDataModule": _Class(of.LOADER),
    "packformer.data.RandomDocuments": _Class(of.RANDOM_DOCUMENTS),
    "packformer.data.AssociativeRecall": _Class(of.RECALL, of.check_recall),
    "packformer.data.Copying": _Class(of.TRANSDUCTION, of.check_transduction),
    "packformer.data.Sorting": _Class(of.TRANSDUCTION, of.check_transduction),
    "packformer.data.StandardLibrary": _Class(of.STANDARD_LIBRARY),
    "packformer.data.TextFiles": _Class(of.TEXT_FILES, needed=("path",)),
    "packformer.data.TokenShards": _Class(of.TOKEN_SHARDS, needed=("path",)),
    "packformer.training.adamw": _Class({**of.ADAMW, "fused": ANYTHING}),
    "packformer.training.muon": _Class({**of.MUON, "fused": ANYTHING}),
    "packformer.training.warmup_cosine": _Class(of.COSINE, needed=_STEPS),
    "packformer.training.warmup_stable_decay": _Class(of.WSD, needed=_STEPS),
    "packformer.training.constant": _Class(of.CONSTANT, needed=_STEPS),
    "packformer.training.DDP": _Class(of.DDP),
    "packformer.training.FSDP2": _Class(of.FSDP2),
    "packformer.training.StepRecords": _Class(of.RECORDS),
    "packformer.training.LastCheckpoint": _Class(of.LAST_CHECKPOINT),
    "packformer.run.samples.Samples": _Class(of.SAMPLES),
    "packformer.run.wandb.wandb_logger": _Class(
        of.WANDB, needed=("mode", "project", "entity", "tags")
    ),
    "lightning.pytorch.callbacks.ModelCheckpoint": _Class(_CHECKPOINT, complete=False),
    "lightning.pytorch.loggers.TensorBoardLogger": _Class(_TENSORBOARD, complete=False),
}
_WITH_ANSWERS = tuple(
    f"packformer.data.{task}" for task in ("AssociativeRecall", "Copying", "Sorting")
)
_WRAPPING = ("functools",)  # partial
_FALLING = tuple(
    f"packformer.training.{schedule}" for schedule in ("warmup_cosine", "warmup_stable_decay")
)
_ALONE = ("packing", "loader", "data", "optimizer", "scheduler")
_OF_MODEL = ("model", "attention", "position")
_HELD = ("callbacks", "logger")  # nodes by name


def check_parts(config: Mapping[str, Any]) -> None:
    """Refuses settings that packformer's own classes do not have, or would refuse.

    The rehearsal checks those of users' own classes.

    Args:
        config: the resolved configuration, plain types only.

    Raises:
        ValueError: naming the setting.
    """
    for place, made in targets_of(config):
        refuse_absent(place, str(made["_target_"]), CLASSES)
    for place, node in _nodes(config):
        _check_node(place, node)
    _check_schedule(config)
    _check_answers(config)
    _check_layers(config)


def _nodes(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for group in _ALONE:
        yield group, config[group]
    if isinstance(strategy := config["trainer"].get("strategy"), Mapping):
        yield "trainer.strategy", strategy
    for group in _HELD:
        held = config.get(group) or {}
        if "_target_" in held:
            yield group, held
            continue
        for name, node in held.items():
            if node is None:
                continue
            if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
                kind = "callback" if group == "callbacks" else "logger"
                raise ValueError(
                    f"{group}.{name} ({node}) must have a _target_, a {kind} of Lightning's, "
                    "or be null"
                )
            yield f"{group}.{name}", node


def _check_node(place: str, node: Mapping[str, Any]) -> None:
    target = str(node.get("_target_"))
    package = target.partition(".")[0]
    if package in sys.stdlib_module_names and package not in _WRAPPING:
        raise ValueError(
            f"{place}._target_ ({target}) is of Python's standard library, which has nothing that "
            f"can be {place}: name a class or function of packformer's, torch's, Lightning's or "
            "yours"
        )
    known = CLASSES.get(target)
    if known is None:
        return
    if "_args_" in node:
        raise ValueError(
            f"{place}._args_ ({shown(node['_args_'])}) cannot be set: {node['_target_']} takes "
            f"settings by name, {place}.NAME=VALUE"
        )
    if known.complete:
        refuse_unknown(place, node, known.rules)
    if missing := [name for name in known.needed if name not in node]:
        raise ValueError(f"{place}.{missing[0]} is missing: {node['_target_']} needs it")
    values = _values(node)
    rules = dict(known.rules)
    if values.get("tokenizer") is not None:
        rules.pop("vocab_size", None)  # of a tokenizer that is there, it is ignored
    check_settings(place, rules, values)
    if known.related is not None:
        known.related(**values)


def _check_schedule(config: Mapping[str, Any]) -> None:
    """A rate cannot fall before it has risen.

    A run that ends before is told of the rate when it begins, since its schedule follows its
    length.
    """
    schedule, steps = config["scheduler"], config["trainer"]["max_steps"]
    warmup, end = schedule.get("warmup_steps", 0), schedule.get("num_steps")
    if schedule["_target_"] in _FALLING and end != steps and warmup >= end:
        raise ValueError(
            f"scheduler.warmup_steps ({warmup}) must be below scheduler.num_steps ({end})"
        )


def _check_answers(config: Mapping[str, Any]) -> None:
    """Documents of a question and its answer must not be cut."""
    task, policy = config["data"].get("_target_"), config["packing"].get("policy")
    if task in _WITH_ANSWERS and policy in ("concatenate", "blocks"):
        raise ValueError(
            f"packing.policy ({policy}) would cut answers from their questions: {task} needs "
            "best_fit"
        )


def _check_layers(config: Mapping[str, Any]) -> None:
    kinds = kinds_of_layers(config)
    refused: dict[str, ValueError] = {}
    for letter, kind in kinds.items():
        try:
            _check_model({**config, **kind})
        except ValueError as error:
            refused[letter] = error
    if refused:
        letter, first = next(iter(refused.items()))
        alone = [str(error) for error in refused.values()].count(str(first)) < len(kinds)
        raise ValueError(naming_letter(str(first), letter, config, alone=alone)) from first
    if not kinds:
        _check_model(config)
        return
    _check_head_sizes(config, kinds)


def _check_head_sizes(
    config: Mapping[str, Any], kinds: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> None:
    """Refuses heads of different sizes: what depends on the row alone is shared by all layers."""
    if not _is(config, "model", "packformer.model.GPT"):
        return
    model = config["model"]
    sizes: dict[int, list[str]] = {}
    for letter in dict.fromkeys(
        letters_of_layers(config["layers"]["pattern"], model["num_layers"])
    ):
        if _is(kinds[letter], "attention", "packformer.model.SelfAttention"):
            size = (
                kinds[letter]["attention"].get("head_dim") or model["width"] // model["num_heads"]
            )
            sizes.setdefault(size, []).append(letter)
    if len(sizes) > 1:
        told = " and ".join(f"{size} in {', '.join(owners)}" for size, owners in sizes.items())
        raise ValueError(
            f"attention.head_dim must be the same in all layers, not {told}: set "
            "attention.head_dim, and leave it out of layers.LETTER.attention"
        )


def _check_model(config: Mapping[str, Any]) -> None:
    for group in _OF_MODEL:
        _check_node(group, config[group])
    if not _is(config, "model", "packformer.model.GPT"):
        return
    sizes = {name: config["model"][name] for name in ("width", "num_heads")}
    if not _is(config, "attention", "packformer.model.SelfAttention"):
        return
    of.check_attention(**sizes, **_values(config["attention"]))
    asked = config["attention"].get("head_dim")
    head_dim = sizes["width"] // sizes["num_heads"] if asked is None else asked
    position = _values(config["position"])
    if _is(config, "position", "packformer.nn.Rotary"):
        of.check_rotary(**sizes, head_dim=head_dim, **position)
    if _is(config, "position", "packformer.nn.ALiBi"):
        of.check_alibi(num_heads=sizes["num_heads"], **position)


def _is(config: Mapping[str, Any], group: str, target: str) -> bool:
    return bool(config[group].get("_target_") == target)


def _values(node: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in node.items() if not name.startswith("_")}
