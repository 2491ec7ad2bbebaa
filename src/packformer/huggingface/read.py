"""A folder of ``transformers`` to model and tokenizer."""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer

from packformer.bounded import read_json
from packformer.huggingface.config import from_config
from packformer.huggingface.form import Form
from packformer.huggingface.names import check_names, parts_of
from packformer.huggingface.shards import TensorFiles
from packformer.huggingface.tokenizer_files import tokenizer_of
from packformer.model import GPT

CONFIG_FILE = "config.json"
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


class Read(NamedTuple):
    """What a folder holds.

    Attributes:
        model: on the CPU, in evaluation mode, its weights in the dtype of the files, the widest if
            there are several.
        tokenizer: ``document_marks`` tells how its documents begin and end; None if there is no
            ``tokenizer.json``.
    """

    model: GPT
    tokenizer: Tokenizer | None


def read(folder: str | Path) -> Read:
    """Opens a Llama, Mistral or Qwen3 folder.

    Args:
        folder: with ``config.json``, safetensors and, if it has one, ``tokenizer.json``.

    Raises:
        ValueError: if it is damaged, incomplete or of an architecture that ``GPT`` does not
            compute; says what is wrong.
    """
    folder = Path(folder).expanduser()
    config = read_config(folder)
    form = from_config(config, str(folder / CONFIG_FILE))
    model = _model(form, folder)
    return Read(model, tokenizer_of(folder, config, form.vocab_size))


def read_form(folder: str | Path) -> Form:
    """What the model of a folder is, from its ``config.json`` alone; raises as ``read``."""
    folder = Path(folder).expanduser()
    return from_config(read_config(folder), str(folder / CONFIG_FILE))


def read_tokenizer(folder: str | Path) -> Tokenizer | None:
    """The tokenizer of a folder, as ``read`` gives it."""
    folder = Path(folder).expanduser()
    config = read_config(folder)
    vocab_size = from_config(config, str(folder / CONFIG_FILE)).vocab_size
    return tokenizer_of(folder, config, vocab_size)


def read_config(folder: Path) -> dict[str, Any]:
    """Content of ``config.json``.

    Raises:
        ValueError: if it is missing or damaged.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        what = "does not exist"
        if folder.exists():
            what = f"holds no {CONFIG_FILE}" if folder.is_dir() else "is no folder"
        raise ValueError(
            f"{folder} {what}: give a folder of transformers (load and init_from take runs as well)"
        )
    try:
        config = read_json(file)
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}): fetch it again") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file} is damaged (no object): fetch it again")
    return config


def _model(form: Form, folder: Path) -> GPT:
    files = TensorFiles(folder)
    if form.num_layers > len(files.shapes):
        raise ValueError(
            f"{folder / CONFIG_FILE}: num_hidden_layers ({form.num_layers:,}) is more than the "
            f"{len(files.shapes):,} tensors of the folder"
        )
    try:
        model = form.make()
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{folder / CONFIG_FILE}: {error}") from error
    copies = check_names(form, files.shapes, files.file_of, str(folder))
    if strange := sorted(files.dtypes - _DTYPES.keys()):
        raise ValueError(
            f"{folder} has weights of type {strange[0]}: there are {', '.join(_DTYPES)}"
        )
    dtype = reduce(torch.promote_types, (_DTYPES[name] for name in files.dtypes))
    _check_copies(files, copies, folder)
    weights = {}
    for ours, parts in parts_of(form).items():  # one after another: both copies are large
        read = files.read([part.name for part in parts])
        weights[ours] = torch.cat([read[part.name] for part in parts]).to(dtype)
    if form.tie_embeddings:
        weights["head.weight"] = weights["embedding.weight"]
    model.load_state_dict(weights, assign=True)
    if form.tie_embeddings:
        model.head.weight = model.embedding.weight
    return model.eval()


def _check_copies(files: TensorFiles, names: list[str], folder: Path) -> None:
    if "lm_head.weight" not in names:
        return
    both = files.read(["lm_head.weight", "model.embed_tokens.weight"])
    if not torch.equal(*both.values()):
        raise ValueError(
            f"{folder} has an lm_head.weight of its own and tie_word_embeddings (true) in its "
            f"{CONFIG_FILE}: set that to false"
        )
