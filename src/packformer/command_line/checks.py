"""Finds wrong settings before anything slow happens: importing torch, data, tokenizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from packformer.command_line.early import check_parts
from packformer.command_line.groups import check_groups
from packformer.command_line.hints import no_setting
from packformer.layer_pattern import kinds_of_layers
from packformer.path_kind import check_text_path, kind_of_existing
from packformer.requirements import GUARD, LOSS_CHUNK, MAX_GRAD_NORM, VOCABULARY, Z_LOSS
from packformer.run.binding import refuse_other_settings
from packformer.run.given import refuse_given
from packformer.run.naming import check_name
from packformer.run.nearest import nearest
from packformer.run.resume import find_checkpoint
from packformer.run.targets import refuse_unknown
from packformer.run.trainer_settings import check_trainer_settings
from packformer.settings import as_text, check_settings, shown, whole

SETTINGS = (
    *(
        "model",
        "attention",
        "position",
        "layers",
        "data",
        "packing",
        "loader",
        "optimizer",
        "scheduler",
    ),
    *("trainer", "guard", "logger", "callbacks", "name", "seed", "resume", "output_dir", "compile"),
    *("init_from", "deterministic", "loss_chunk", "z_loss", "max_grad_norm", "objective"),
    *("bpe_vocab_size", "weight_decay_schedule"),
)
"""All that is read of a configuration, at its top."""

CHOICES: dict[str, tuple[str | bool | None, ...]] = {
    "attention.kernel": ("auto", "flash4", "xformers", "flex", "sdpa", "reference"),
    "compile": ("auto", True, False, "blocks"),
    "deterministic": (True, False),
    "logger.wandb.mode": ("auto", "online", "offline", "disabled"),
    "model.activation_checkpointing": ("none", "selective", "full"),
    "objective": (
        *("val/loss", "val/perplexity", "val/bits_per_byte"),
        *("val/answer_accuracy", "val/exact_match"),
    ),
    "packing.long_documents": ("split", "truncate", "drop", "error"),
    "weight_decay_schedule": ("constant", "learning_rate", "linear", "cosine"),
    "trainer.accelerator": ("auto", "gpu", "cuda", "cpu"),
    "trainer.float8": (False, True, "emulate"),
    "trainer.profiler": ("simple", "advanced", "pytorch", None),
    "trainer.precision": (
        *("auto", "32-true", "bf16-mixed", "bf16-true", "16-mixed", "16-true", "64-true"),
    ),
}
"""Values of settings that packformer's own classes choose by."""

_LARGEST_SEED = 2**32 - 1  # of Lightning and numpy
_OF_THE_USER = ("attention.kernel",)  # my_parts.mine
_OF_A_CORPUS = ("val/loss/", "val/bits_per_byte/")
_OWN = "packformer."
_MEASURE_NOTHING = (_OWN, "lightning.")
_TEXT, _SHARDS = "packformer.data.TextFiles", "packformer.data.TokenShards"
_MANIFEST = "manifest.json"
_EXAMPLES = {  # of data.path, by what reads it
    _TEXT: "my_texts (a file or folder)",
    _SHARDS: "my_corpus (a folder that packformer prepare made)",
}
_WITH_TOKENIZER = (_TEXT, "packformer.data.StandardLibrary")


def check_given(config: DictConfig) -> None:
    """Refuses a configuration that lacks a value which every run needs.

    Args:
        config: as it was composed.

    Raises:
        ValueError: naming the setting.
    """
    for name in sorted(OmegaConf.missing_keys(config)):
        reader = OmegaConf.select(config, "data._target_")
        example = _EXAMPLES.get(reader, "VALUE") if name == "data.path" else "VALUE"
        raise ValueError(f"{name} is needed and not given: write {name}={example}")


def check_configuration(settings: Mapping[str, Any], overrides: Sequence[str] = ()) -> None:
    """Refuses names of settings and choices that do not exist, and files that are not there.

    Args:
        settings: the resolved configuration, plain types only.
        overrides: the command line's that it was composed with, options among them.

    Raises:
        ValueError: naming the setting, and what may have been meant.
    """
    check_name(settings.get("name"))
    for name, value in settings.items():
        if name not in SETTINGS:
            raise ValueError(no_setting(name, str(value), overrides))
    check_groups(settings)
    refuse_given(settings)
    check_trainer_settings(settings["trainer"])
    for key, choices in CHOICES.items():
        _check_choice(key, settings, choices)
    for letter, kind in kinds_of_layers(settings).items():
        _check_choice("attention.kernel", kind, CHOICES["attention.kernel"], f"layers.{letter}.")
    as_text("output_dir", settings["output_dir"], "path")
    if settings["init_from"] is not None:
        as_text("init_from", settings["init_from"], "path")  # read before, unless a run is resumed
    resume = settings["resume"]
    if resume in (None, "") or isinstance(resume, bool | list | Mapping):
        raise ValueError(
            f"resume ({shown(resume)}): give auto, never, a run folder or a .ckpt file"
        )
    if settings["resume"] != "auto":
        checkpoint = find_checkpoint(str(settings["resume"]), Path(), {})
        if checkpoint is not None:
            refuse_other_settings(checkpoint, dict(settings))
    whole(0, _LARGEST_SEED).check("seed", settings["seed"])
    if settings["loss_chunk"] != "auto":
        LOSS_CHUNK.check("loss_chunk", settings["loss_chunk"])
    Z_LOSS.check("z_loss", settings["z_loss"])
    MAX_GRAD_NORM.check("max_grad_norm", settings["max_grad_norm"])
    VOCABULARY.check("bpe_vocab_size", settings["bpe_vocab_size"])
    refuse_unknown("guard", settings["guard"], GUARD)
    check_settings("guard", GUARD, settings["guard"])
    check_parts(settings)
    _check_monitors(settings.get("callbacks") or {})
    _check_files(settings["data"])


def _check_choice(
    key: str, settings: Mapping[str, Any], choices: tuple[str | bool | None, ...], of: str = ""
) -> None:
    *path, last = key.split(".")
    node: Any = settings
    for name in path:
        node = node.get(name)
        if not isinstance(node, Mapping) or not str(node.get("_target_", _OWN)).startswith(_OWN):
            return  # left out, or of a class of the user's
    if last not in node:
        return
    value = node[last]
    is_object = isinstance(value, Mapping) and "_target_" in value
    if is_object or (key in _OF_THE_USER and isinstance(value, str) and "." in value):
        return  # an object of the user's
    if key == "objective" and str(value).startswith(_OF_A_CORPUS):
        return  # which corpora there are the data say
    if any(value == choice and type(value) is type(choice) for choice in choices):
        return
    names = [shown(choice) for choice in choices]
    near = nearest(str(value), names)
    meant = f": did you mean {near}?" if near else ""
    raise ValueError(f"{of}{key} ({shown(value)}) must be one of {', '.join(names)}{meant}")


def _check_monitors(callbacks: Mapping[str, Any]) -> None:
    """Refuses to monitor a metric that nothing measures, unless a user's callback may."""
    nodes = {name: node for name, node in callbacks.items() if isinstance(node, Mapping)}
    if not all(str(node.get("_target_")).startswith(_MEASURE_NOTHING) for node in nodes.values()):
        return
    for name, node in nodes.items():
        monitor, known = node.get("monitor"), CHOICES["objective"]
        if monitor is not None and monitor not in known:
            near = nearest(str(monitor), [str(choice) for choice in known])
            meant = f"did you mean {near}?" if near else f"there are {', '.join(map(str, known))}"
            raise ValueError(f"callbacks.{name}.monitor ({monitor}) is not measured: {meant}")


def _check_files(data: Mapping[str, Any]) -> None:
    """Refuses paths of local files at which there is not what is read."""
    target = data.get("_target_")
    if target == _TEXT:
        check_text_path(as_text("data.path", data.get("path"), "path"))
    elif target == _SHARDS:
        paths = data.get("path")
        for corpus in paths if isinstance(paths, list) else [paths]:
            _check_corpus(as_text("data.path", corpus, "path"))
    if target in _WITH_TOKENIZER and data.get("tokenizer") is not None:
        file = as_text("data.tokenizer", data["tokenizer"], "path")
        needed = "give the path of a tokenizer.json"
        if (kind := kind_of_existing("data.tokenizer", file, needed)) != "is a file":
            raise ValueError(f"data.tokenizer {file} {kind}: {needed}")


def _check_corpus(path: str) -> None:
    if "://" in path:
        return
    needed = "give a folder that `packformer prepare` made, or its URL"
    kind = kind_of_existing("data.path", path, needed)
    if kind == "is a file" and Path(path).name == _MANIFEST:
        return
    if kind != "is a folder":
        raise ValueError(f"data.path {path} {kind}, no corpus of token shards: {needed}")
    if not (Path(path).expanduser() / _MANIFEST).is_file():
        raise ValueError(
            f"data.path {path} is no corpus of token shards, it has no {_MANIFEST}: make one with "
            "`packformer prepare`, or continue it if it was interrupted"
        )
