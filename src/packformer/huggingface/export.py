"""Model and tokenizer to a folder of ``transformers``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from packformer.huggingface.config import to_config
from packformer.huggingface.form import Form
from packformer.huggingface.form_of_model import form_of_model
from packformer.huggingface.names import exported, exported_bytes
from packformer.huggingface.read import CONFIG_FILE
from packformer.huggingface.shards import write_tensors
from packformer.huggingface.tokenizer_files import special_ids, write_tokenizer
from packformer.huggingface.whole_folder import whole_folder
from packformer.model import GPT

GENERATION_CONFIG = "generation_config.json"
CARD_FILE = "README.md"
_SHARD_BYTES = 5_000_000_000


def export(
    model: GPT,
    tokenizer: Tokenizer | None,
    folder: str | Path,
    *,
    card: str | None = None,
    shard_bytes: int = _SHARD_BYTES,
) -> Form:
    """Writes a model as Llama, Mistral or Qwen3, whichever computes the same.

    The folder appears whole or not at all.

    Args:
        model: any whose layers are alike and rotary; its weights are written in their dtype.
        tokenizer: of its text; None to leave it out.
        folder: to make.
        card: the model card; None for none.
        shard_bytes: of a file of weights, at most.

    Returns:
        What was written.

    Raises:
        ValueError: if the model has no such form, naming the setting at fault, or the folder
            exists.
        OSError: if the folder cannot be written.
    """
    form = form_of_model(model)
    dtype = model.embedding.weight.dtype
    config = to_config(form, str(dtype).removeprefix("torch.")) | special_ids(tokenizer)
    with whole_folder(Path(folder).expanduser()) as unfinished:
        write_tensors(
            exported(form, {name: tensor.cpu() for name, tensor in model.state_dict().items()}),
            unfinished,
            total_bytes=exported_bytes(form, dtype.itemsize),
            shard_bytes=shard_bytes,
        )
        _write_json(config, unfinished / CONFIG_FILE)
        _write_json(_generation(tokenizer), unfinished / GENERATION_CONFIG)
        if tokenizer is not None:
            write_tokenizer(tokenizer, form.max_position, unfinished)
        if card is not None:
            (unfinished / CARD_FILE).write_text(card, encoding="utf-8")
    return form


def _generation(tokenizer: Tokenizer | None) -> dict[str, Any]:
    ids = special_ids(tokenizer)
    padding = {"pad_token_id": ids["eos_token_id"]} if ids else {}
    return {"_from_model_config": False, **ids, **padding}


def _write_json(content: dict[str, Any], file: Path) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
