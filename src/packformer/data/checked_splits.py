"""What a data set prepares, checked: it may be a class of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packformer.batch import IGNORE_INDEX
from packformer.data.source import (
    DataSet,
    DataSplits,
    Mixture,
    Sectioned,
    check_lasting,
    whole_document,
)
from packformer.settings import check_whole

_OF_A_SOURCE = ("num_documents", "length", "piece")
_LOOKED_AT = 64  # documents, until one has a token to predict


def checked_splits(data_set: DataSet) -> DataSplits:
    """What ``data_set`` prepares.

    Raises:
        ValueError: naming what is missing or of the wrong kind.
    """
    name = type(data_set).__name__
    if not callable(getattr(data_set, "prepare", None)):
        raise ValueError(f"data ({name}) must have a method prepare() that returns DataSplits")
    splits = data_set.prepare()
    if not isinstance(splits, DataSplits):
        raise ValueError(
            f"data ({name}): prepare() returned {type(splits).__name__}, it must return DataSplits"
        )
    _check_whole(f"data ({name}): vocab_size", splits.vocab_size, at_least=1)
    _check_plain(name, splits)
    for split in ("train", "validation"):
        _check_source(f"data ({name}): {split}", getattr(splits, split), splits.vocab_size)
    if splits.validation.num_documents is None:
        raise ValueError(
            f"data ({name}): validation: num_documents is None, which is for training alone: "
            "validation reads all documents once, so it needs their number"
        )
    return splits


def _check_plain(name: str, splits: DataSplits) -> None:
    for field, kind, words in (
        ("fingerprint", str, "text"),
        ("description", str, "text"),
        ("scores_answers", bool, "True or False"),
        ("tokenizer", Path | None, "a Path, or None"),
        ("byte_lengths", np.ndarray | None, "an array, or None"),
    ):
        value = getattr(splits, field)
        if not isinstance(value, kind):
            raise ValueError(f"data ({name}): {field} ({type(value).__name__}) must be {words}")
    check_lasting(f"data ({name}): fingerprint", splits.fingerprint)
    lengths = splits.byte_lengths
    if lengths is not None and lengths.shape != (splits.vocab_size,):
        raise ValueError(
            f"data ({name}): byte_lengths {list(lengths.shape)} must be [{splits.vocab_size}], one "
            "for each token"
        )


def _check_source(name: str, source: Any, vocab_size: int) -> None:
    missing = [part for part in _OF_A_SOURCE if not hasattr(source, part)]
    if missing:
        raise ValueError(
            f"{name} ({type(source).__name__}) must be a source of documents: it lacks "
            f"{', '.join(missing)}; packformer.data.Documents makes one of token ids"
        )
    if source.num_documents is not None:
        _check_whole(f"{name}: num_documents", source.num_documents, at_least=0)
    # Others are opened first, and packformer's own.
    if source.num_documents != 0 and not isinstance(source, Mixture | Sectioned):
        _check_documents(name, source, vocab_size)


def _check_documents(name: str, source: Any, vocab_size: int) -> None:
    """Looks at the first document, and at those after it until one has a token to predict."""
    count = _LOOKED_AT
    if source.num_documents is not None:
        count = min(count, int(source.num_documents))
    any_long = any_last = False
    for index in range(count):
        targets = _checked_targets(name, source, index, vocab_size)
        if (targets[:-1] != IGNORE_INDEX).any():
            return
        any_long |= len(targets) > 1
        any_last |= bool((targets[-1:] != IGNORE_INDEX).any())
    if not any_long:
        return  # the packer says that none has two tokens
    why = "all targets are -100"
    if any_last:
        why = (
            "only the last target of a document is set, and it is not used: the target of a token "
            "is the token after it"
        )
    first = "document" if count == 1 else f"{count} documents"
    raise ValueError(f"{name}: no token to predict in its first {first}: {why}")


def _checked_targets(name: str, source: Any, index: int, vocab_size: int) -> NDArray[Any]:
    """The targets of a document; it and they are checked."""
    length = source.length(index)
    _check_whole(f"{name}: length of document {index}", length, at_least=0)
    found = whole_document(source, index)
    if not isinstance(found, tuple) or len(found) != 2:
        raise ValueError(
            f"{name}: document {index} ({type(found).__name__}) must be two arrays, tokens and "
            "targets"
        )
    for part, values in zip(("tokens", "targets"), found, strict=True):
        array = np.asarray(values)
        if array.shape != (length,) or (length and array.dtype.kind not in "iu"):
            raise ValueError(
                f"{name}: {part} of document {index}, {array.dtype} {list(array.shape)}, must be "
                f"whole numbers [{length}], its length"
            )
        predicted = array if part == "tokens" else array[array != IGNORE_INDEX]
        outside = predicted[(predicted < 0) | (predicted >= vocab_size)]
        if outside.size:
            raise ValueError(
                f"{name}: {part} of document {index} hold {outside[0]}, and ids must be from 0 up "
                f"and below vocab_size ({vocab_size})"
            )
    return array


def _check_whole(name: str, value: Any, *, at_least: int) -> None:
    """Like ``check_whole``; what numpy counted is whole, too."""
    check_whole(name, int(value) if isinstance(value, np.integer) else value, at_least=at_least)
