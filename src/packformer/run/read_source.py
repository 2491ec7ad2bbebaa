"""Reads what ``init_from`` names: settings and tokenizer first, weights once there is a model."""

from __future__ import annotations

import logging
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from packformer import huggingface
from packformer.cache import cached_folder, fingerprint
from packformer.corpus.tokenizer import encode_alike, num_ids, open_tokenizer
from packformer.model import GPT
from packformer.model.deferred import Deferred
from packformer.run.added_settings import with_added_settings
from packformer.run.load import load
from packformer.run.model_path import checkpoint_of, is_exported
from packformer.run.own_tokenizer import check_own_tokenizer
from packformer.run.resume import CONFIG_FILE, TOKENIZER_FILE, read_configuration, run_folder
from packformer.run.source import GROUPS, Source
from packformer.run.trusted import refuse_foreign_names
from packformer.training.checkpoint import weight_shapes

log = logging.getLogger(__name__)

_OWN = {
    "model": {"_target_": "packformer.model.GPT", "_partial_": True},
    "attention": {
        **{"_target_": "packformer.model.SelfAttention", "_partial_": True},
        **{"soft_cap": None, "score_mod": None, "kernel": "auto"},
    },
    "position": {"_target_": "packformer.nn.Rotary", "_partial_": True},
}
_FREE_OF_MODEL = {
    **{"init_std": 0.02, "embedding_std": None, "fp32_residual": True},
    **{"activation_checkpointing": "none", "checkpointed_layers": None},
}


def read_source(path: Path) -> Source:
    """Settings and tokenizer of a run, a checkpoint or a folder of ``transformers``.

    Raises:
        ValueError: if it is none of these, or damaged.
    """
    return _of_folder(path) if is_exported(path) else _of_run(path)


def _of_folder(path: Path) -> Source:
    form = huggingface.read_form(path)
    settings = {group: {**_OWN[group], **own} for group, own in form.settings().items()}
    settings["model"] |= {"vocab_size": form.vocab_size, **_FREE_OF_MODEL}
    settings["layers"] = {"pattern": None}
    tokenizer = huggingface.read_tokenizer(path)
    return Source(path, settings, None if tokenizer is None else _cached(tokenizer))


def _cached(tokenizer: Tokenizer) -> Path:
    """Where the tokenizer lies as a file, with its marks."""
    text = tokenizer.to_str()

    def make(folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / TOKENIZER_FILE).write_text(text, encoding="utf-8")

    return cached_folder(f"tokenizers/{fingerprint([text])}", make) / TOKENIZER_FILE


def _of_run(path: Path) -> Source:
    checkpoint = checkpoint_of(path)
    folder = run_folder(checkpoint)
    if folder is None:
        raise ValueError(
            f"init_from ({path}) lies in no run folder: there is no {CONFIG_FILE} above it"
        )
    config = with_added_settings(read_configuration(folder / CONFIG_FILE))
    if missing := [group for group in GROUPS[:3] if not isinstance(config.get(group), dict)]:
        raise ValueError(f"{folder / CONFIG_FILE} is damaged: it lacks {missing[0]}")
    settings: dict[str, Any] = {"layers": {"pattern": None}}
    settings |= {group: config[group] for group in GROUPS if config.get(group) is not None}
    settings["model"] = {**settings["model"], "vocab_size": _vocab_size(checkpoint)}
    refuse_foreign_names(settings, folder / CONFIG_FILE)
    check_own_tokenizer(folder)
    tokenizer = folder / TOKENIZER_FILE
    return Source(path, settings, tokenizer if tokenizer.is_file() else None)


def _vocab_size(checkpoint: Path) -> int:
    try:
        return weight_shapes(checkpoint)["embedding.weight"][0]
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"init_from: {checkpoint} is truncated, damaged or no checkpoint of packformer"
        ) from error


def take_weights(
    path: Path, model: GPT, tokenizer: Path | None, deferred: Deferred | None = None
) -> list[str]:
    """Copies the weights that ``path`` holds into a model of its settings.

    Args:
        path: as of ``read_source``.
        model: to start from them.
        tokenizer: of the data; None if they are no text.
        deferred: what the model was built within, if it has no memory yet.

    Returns:
        What was taken and what not, in words.

    Raises:
        ValueError: if the data have another tokenizer, or weights do not fit the model.
    """
    loaded = load(path)
    told = _compared_tokenizers(path, loaded.tokenizer, tokenizer)
    try:
        with deferred or nullcontext(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*to a meta parameter.* is a no-op.*")
            model.load_state_dict(loaded.model.state_dict())
    except RuntimeError as error:
        raise ValueError(_does_not_fit(path, loaded.model, model)) from error
    if model.max_position > loaded.model.max_position:
        log.warning(
            "documents of up to %d tokens: the weights were trained on up to %d",
            model.max_position,
            loaded.model.max_position,
        )
    return [
        f"{path}: {loaded.model.num_parameters():,} weights and the model's settings are taken",
        told,
        "optimizer, schedule, step and order of the data begin anew",
    ]


def _compared_tokenizers(path: Path, theirs: Tokenizer | None, file: Path | None) -> str:
    if file is None:
        return "the data are no text: no tokenizer is taken"
    ours = open_tokenizer(file)
    if theirs is None:
        return f"it has no tokenizer: whether {file} is the one it was trained with is not known"
    if not encode_alike(ours, theirs):
        raise ValueError(
            f"the data's tokenizer ({file}) is not that of init_from ({path}): its ids mean other "
            "text; leave data.tokenizer out, or prepare the corpus again with that of init_from"
        )
    return f"its tokenizer is that of the data ({num_ids(theirs):,} ids)"


def _does_not_fit(path: Path, source: GPT, model: GPT) -> str:
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name, tensor in source.state_dict().items():
        if shapes.get(name) == tuple(tensor.shape):
            continue
        if source.max_position != model.max_position and source.max_position in tensor.shape:
            return (
                f"the positions of init_from ({path}) are learned, {source.max_position} of them: "
                f"set packing.max_document_length={source.max_position}"
            )
        return f"init_from ({path}) has {name} {tuple(tensor.shape)}, the model {shapes.get(name)}"
    return f"init_from ({path}) lacks weights of the model"
