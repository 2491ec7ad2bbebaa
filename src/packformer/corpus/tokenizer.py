"""The tokenizer: a byte-level BPE trained on the corpus, or any ``tokenizer.json``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import (
    Encoding,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)

from packformer.path_kind import path_kind

Tokens = NDArray[np.int64]

BOS = "<|bos|>"
"""Begins every document, so that its first real token is predicted too."""
EOS = "<|eos|>"
"""Ends every document."""
MIN_VOCAB = 256 + 2
MOST_VOCAB = 2**24
"""Embeddings of more do not fit a device. Training a BPE reserves memory for all it may have."""
_MOST_BYTES = 2**28
# What decides which ids a text gets. The rest of a tokenizer.json turns ids to text, or adds marks.
_ENCODING = ("added_tokens", "normalizer", "pre_tokenizer", "model")


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Trains a byte-level BPE (Sennrich et al. 2016; Radford et al. 2019) with ``BOS`` and ``EOS``.

    Args:
        texts: the corpus.
        vocab_size: entries, the 256 bytes and the two special ones included; fewer if the corpus
            has no more pairs to merge.

    Raises:
        ValueError: if ``vocab_size`` cannot hold the bytes, or is more than ``MOST_VOCAB``.
    """
    if vocab_size < MIN_VOCAB:
        raise ValueError(f"vocab_size ({vocab_size}) must be at least {MIN_VOCAB}")
    if vocab_size > MOST_VOCAB:
        raise ValueError(f"vocab_size ({vocab_size}) must be at most {MOST_VOCAB:,}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """As ``open_tokenizer``; adds ``BOS`` and ``EOS`` if it lacks them and names no others."""
    tokenizer = open_tokenizer(path)
    if _marks_of_template(tokenizer) is None:
        tokenizer.add_special_tokens([BOS, EOS])
    return tokenizer


def open_tokenizer(path: Path) -> Tokenizer:
    """Reads a ``tokenizer.json``.

    Its truncation, padding and dropout are turned off: they are meant for training batches.

    Raises:
        ValueError: if there is no such file, or it is no tokenizer.
    """
    if not path.is_file():
        raise ValueError(f"tokenizer {path} {path_kind(path)}: give the path of a tokenizer.json")
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path} is larger than the {_MOST_BYTES:,} bytes that it may be")
    try:
        tokenizer = Tokenizer.from_file(str(path))
        _check_ids(tokenizer)
    except BaseException as error:  # the library raises nothing more specific, and panics
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise ValueError(
            f"{path} is no tokenizer.json ({' '.join(str(error).split())}): copy it again"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    model = tokenizer.model
    if isinstance(model, models.BPE) and model.dropout is not None:
        model.dropout = None
        tokenizer.model = model
    return tokenizer


def _check_ids(tokenizer: Tokenizer) -> None:
    """Refuses ids that no model has room for, and marks of documents that are no ids."""
    if not tokenizer.get_vocab_size():
        raise ValueError("it has no token")
    if (most := num_ids(tokenizer)) > MOST_VOCAB:
        raise ValueError(f"its highest id is {most - 1:,}, and {MOST_VOCAB:,} are the most")
    for mark in document_marks(tokenizer) or ():
        if tokenizer.id_to_token(mark) is None:
            raise ValueError(f"documents begin or end with id {mark:,}, which it does not have")


def marked(tokenizer: Tokenizer, begin: int, end: int) -> Tokenizer:
    """The tokenizer, with tokens of its own as ``BOS`` and ``EOS``.

    Its template names them, so that they are written to its ``tokenizer.json`` too. Where special
    tokens are added to a text, ``begin`` is.

    Args:
        tokenizer: any; changed in place.
        begin: id of the token that begins a document.
        end: id of the token that ends one.
    """
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {EOS} {BOS}:1 $B:1",
        special_tokens=[(BOS, begin), (EOS, end)],
    )
    return tokenizer


def document_marks(tokenizer: Tokenizer) -> tuple[int, int] | None:
    """Ids that begin and end a document; None if the tokenizer has no such tokens."""
    begin, end = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
    return _marks_of_template(tokenizer) if begin is None or end is None else (begin, end)


def encode_alike(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether documents get the same ids from both."""
    first, second = (json.loads(tokenizer.to_str()) for tokenizer in (one, other))
    alike = all(first[part] == second[part] for part in _ENCODING)
    return alike and document_marks(one) == document_marks(other)


def _marks_of_template(tokenizer: Tokenizer) -> tuple[int, int] | None:
    if tokenizer.post_processor is None:
        return None
    template = json.loads(tokenizer.to_str())["post_processor"].get("special_tokens")
    named = template if isinstance(template, dict) else {}
    if BOS not in named or EOS not in named:
        return None
    return named[BOS]["ids"][0], named[EOS]["ids"][0]


def text_tokenizer(tokenizer_json: str) -> Tokenizer:
    """A tokenizer for documents: a special token spelled out in a text is encoded as text."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.encode_special_tokens = True
    return tokenizer


def encode_texts(tokenizer: Tokenizer, texts: list[str]) -> list[Encoding]:
    """Texts without special tokens.

    Raises:
        ValueError: if the vocabulary lacks what a text needs and the token that stands for it.
    """
    try:
        return tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    except Exception as error:  # the library raises nothing more specific
        raise ValueError(
            f"the tokenizer cannot encode a text, {error}: give one whose vocabulary has a token "
            "for what it does not know"
        ) from error


def num_ids(tokenizer: Tokenizer) -> int:
    """One more than the highest id; a vocabulary may have gaps."""
    return max(tokenizer.get_vocab().values()) + 1


def token_byte_lengths(tokenizer: Tokenizer) -> Tokens | None:
    """Bytes of text each id stands for, int64 ``[V]``; 0 for special tokens.

    A byte-level vocabulary spells each byte as one character; one with ``Metaspace`` spells text,
    with U+2581 for a space, and single bytes as ``<0xE4>``.

    Returns:
        None if the vocabulary does not spell all of a text, as WordPiece, which forgets spaces.
    """
    decoder = json.dumps(json.loads(tokenizer.to_str())["decoder"])
    byte_level = '"ByteLevel"' in decoder
    if not byte_level and not any(f'"{name}"' in decoder for name in ("Metaspace", "ByteFallback")):
        return None
    added = tokenizer.get_added_tokens_decoder()
    lengths = np.zeros(num_ids(tokenizer), dtype=np.int64)
    for spelling, id in tokenizer.get_vocab().items():
        if id in added:
            lengths[id] = 0 if added[id].special else len(spelling.encode())
        elif byte_level:
            lengths[id] = len(spelling)
        elif re.fullmatch("<0x[0-9A-F]{2}>", spelling):
            lengths[id] = 1
        else:
            lengths[id] = len(spelling.replace("\u2581", " ").encode())
    return lengths
