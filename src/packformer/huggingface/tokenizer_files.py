"""``tokenizer.json`` and ``tokenizer_config.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from packformer.bounded import read_json
from packformer.corpus.tokenizer import document_marks, marked, num_ids, open_tokenizer

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"


def special_ids(tokenizer: Tokenizer | None) -> dict[str, int]:
    """The ids that begin and end a document, as ``config.json`` calls them."""
    marks = None if tokenizer is None else document_marks(tokenizer)
    return {} if marks is None else {"bos_token_id": marks[0], "eos_token_id": marks[1]}


def write_tokenizer(tokenizer: Tokenizer, max_position: int, folder: Path) -> list[Path]:
    """Writes both files; texts begin with the token that documents begin with in training.

    Args:
        tokenizer: of the model.
        max_position: longest document, in tokens.
        folder: to write to.

    Returns:
        The files.
    """
    written = Tokenizer.from_str(tokenizer.to_str())
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_position,
        "clean_up_tokenization_spaces": False,
    }
    if (marks := document_marks(written)) is not None:
        marked(written, *marks)
        bos, eos = (written.id_to_token(mark) for mark in marks)
        config |= {"bos_token": bos, "eos_token": eos, "pad_token": eos}
    files = [folder / TOKENIZER_FILE, folder / TOKENIZER_CONFIG]
    files[0].write_text(written.to_str(pretty=True), encoding="utf-8")
    files[1].write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return files


def tokenizer_of(folder: Path, config: Mapping[str, Any], vocab_size: int) -> Tokenizer | None:
    """The tokenizer of a folder; its documents begin and end as the folder says.

    Args:
        folder: to read.
        config: content of its ``config.json``.
        vocab_size: of the model.

    Returns:
        None if the folder has no ``tokenizer.json``.

    Raises:
        ValueError: if the file is damaged, has ids that the model lacks, or no token is known to
            end a text.
    """
    file = folder / TOKENIZER_FILE
    if not file.is_file():
        return None
    tokenizer = open_tokenizer(file)
    if document_marks(tokenizer) is None:
        named = {**config, **_named_tokens(folder, tokenizer)}
        bos, eos = _first(named.get("bos_token_id")), _first(named.get("eos_token_id"))
        if eos is None:
            raise ValueError(
                f"{folder} does not say which token ends a text: set eos_token in "
                f"{TOKENIZER_CONFIG}"
            )
        marked(tokenizer, eos if bos is None else bos, eos)
    needed = max(num_ids(tokenizer), *(1 + mark for mark in document_marks(tokenizer) or ()))
    if needed > vocab_size:
        raise ValueError(
            f"{file} has {needed} ids and the model {vocab_size}: it is the tokenizer of another "
            "model"
        )
    return tokenizer


def _named_tokens(folder: Path, tokenizer: Tokenizer) -> dict[str, int]:
    """Ids of the tokens that ``tokenizer_config.json`` names."""
    file = folder / TOKENIZER_CONFIG
    if not file.is_file():
        return {}
    try:
        config = read_json(file)
        named = {name: config.get(name) for name in ("bos_token", "eos_token")}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{file} is damaged ({error}): fetch it again") from error
    found = {}
    for name, token in named.items():
        text = token.get("content") if isinstance(token, dict) else token
        id = tokenizer.token_to_id(text) if isinstance(text, str) else None
        if id is not None:
            found[f"{name}_id"] = id
    return found


def _first(id: Any) -> int | None:
    """Configurations may list several ids that end a text."""
    if isinstance(id, list):
        id = next(iter(id), None)
    return id if isinstance(id, int) else None
