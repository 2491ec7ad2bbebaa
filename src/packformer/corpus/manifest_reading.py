"""Reads a manifest, and believes none of it that is not of the right form.

A corpus may come from anyone: its names become paths, and its numbers sizes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from packformer.bounded import MEBIBYTE, parse_json, read_bounded
from packformer.corpus.left_out import LeftOut
from packformer.corpus.shards import DTYPES, FORMAT, SPLITS, Manifest, Shard
from packformer.settings import is_number

MOST_BYTES = 256 * MEBIBYTE
"""Of a manifest."""
_SHA256 = re.compile("[0-9a-f]{64}")
_NAME = re.compile(r"\w[\w.-]{0,199}", re.ASCII)
_MOST = 2**48  # documents, tokens and bytes of a shard
_LONGEST = 1000  # characters of a remark


def read_manifest(file: Path) -> Manifest:
    """The manifest in a file.

    Raises:
        ValueError: if it is none, or of another format.
    """
    return load_manifest(read_bounded(file, MOST_BYTES), str(file))


def load_manifest(text: str | bytes, place: str) -> Manifest:
    """A manifest from the content of its file.

    Raises:
        ValueError: if it is none, or of another format; says what is wrong.
    """
    try:
        values = parse_json(text)
        if values.get("format") != FORMAT:
            raise ValueError(f"its format is {values.get('format')}, not {FORMAT}")
        for split in SPLITS:
            values[split] = [read_shard(shard) for shard in values[split]]
        if "left_out" in values:
            values["left_out"] = LeftOut(**values["left_out"])
        else:  # as it was written before there were more kinds
            values["left_out"] = LeftOut(empty=values.pop("empty"), not_utf8=values.pop("skipped"))
        manifest = Manifest(**values)
        _check(manifest)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{place} is no manifest of token shards ({error}): copy it again, or prepare the "
            "corpus anew"
        ) from error
    return manifest


def read_shard(values: Mapping[str, Any]) -> Shard:
    """What a manifest or journal says of a shard.

    Raises:
        ValueError: if a value is of another form.
        TypeError: if one is missing or unknown.
    """
    shard = Shard(**values)
    _check_text("file", shard.file, _NAME, "a plain file name")
    _check_text("sha256", shard.sha256, _SHA256, "64 hexadecimal digits")
    for name in ("documents", "tokens", "text_bytes"):
        _check_count(f"{name} of {shard.file}", getattr(shard, name))
    # A tokenizer that does not say counts -1 for each piece of text, of a token or more.
    _check_count("spelled_bytes", shard.spelled_bytes, least=-shard.tokens)
    if shard.documents > shard.tokens:
        raise ValueError(f"{shard.file} has {shard.documents} documents of {shard.tokens} tokens")
    return shard


def _check(manifest: Manifest) -> None:
    _check_text("tokenizer_sha256", manifest.tokenizer_sha256, _SHA256, "64 hexadecimal digits")
    if manifest.dtype not in DTYPES:
        raise ValueError(f"its dtype is {manifest.dtype}")
    _check_count("vocab_size", manifest.vocab_size, least=1)
    if manifest.vocab_size - 1 > np.iinfo(manifest.dtype).max:
        raise ValueError(f"vocab_size ({manifest.vocab_size}) does not fit {manifest.dtype}")
    fraction = manifest.validation_fraction
    if not is_number(fraction) or not 0 <= fraction <= 1:
        raise ValueError(f"validation_fraction ({fraction}) must be a number from 0 to 1")
    for name, count in vars(manifest.left_out).items():
        _check_count(f"left_out.{name}", count)
    if not isinstance(manifest.remarks, list):
        raise ValueError("its remarks are no list")
    for remark in manifest.remarks:
        if not isinstance(remark, str) or not remark.isprintable() or len(remark) > _LONGEST:
            raise ValueError("a remark is no line of text")


def _check_text(name: str, value: Any, form: re.Pattern[str], what: str) -> None:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise ValueError(f"{name} ({str(value)[:100]!r}) must be {what}")


def _check_count(name: str, value: Any, least: int = 0) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _MOST:
        raise ValueError(f"{name} ({str(value)[:100]}) must be a count")
