"""Measures how much of a text a tokenizer cannot represent."""

from __future__ import annotations

import json
import re
import unicodedata

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from packformer.corpus.tokenizer import num_ids
from packformer.counted import counted


def unknown_token(tokenizer: Tokenizer) -> str | None:
    """What stands for text that the vocabulary cannot spell; None if there is no such token."""
    model = json.loads(tokenizer.to_str())["model"]
    if model["type"] == "Unigram":
        return None if model["unk_id"] is None else str(model["vocab"][model["unk_id"]][0])
    return model.get("unk_token")


def token_characters(tokenizer: Tokenizer) -> NDArray[np.int64]:
    """Characters that each id spells, white space left out, int64 ``[V]``.

    0 for special tokens and the unknown one. A character of several bytes counts for the id that
    has its first.
    """
    parts = json.loads(tokenizer.to_str())
    steps = json.dumps([parts["normalizer"], parts["pre_tokenizer"], parts["decoder"]])
    byte_level = '"ByteLevel"' in steps
    model, added = parts["model"], tokenizer.get_added_tokens_decoder()
    prefix = model.get("continuing_subword_prefix") or ""
    suffix = model.get("end_of_word_suffix") or ""
    unknown = unknown_token(tokenizer)
    found = np.zeros(num_ids(tokenizer), dtype=np.int64)
    for spelling, id in tokenizer.get_vocab().items():
        if spelling == unknown or (id in added and added[id].special):
            continue
        if id in added:
            found[id] = characters(spelling)
        elif byte_level:
            found[id] = sum(letter in _FIRST_BYTES for letter in spelling)
        elif byte := re.fullmatch("<0x([0-9A-F]{2})>", spelling):
            found[id] = _begins(int(byte[1], 16))
        else:
            text = spelling.removeprefix(prefix).removesuffix(suffix)
            found[id] = characters(text.replace("\u2581", " "))
    return found


def characters(text: str) -> int:
    """Characters of a text, composed (NFC) and white space left out.

    So a normalizer that only decomposes or changes case loses no text, and neither does a tokenizer
    that only drops white space.
    """
    if not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", text)
    return len("".join(text.split()))


def loss_remarks(
    unknown_name: str | None,
    *,
    lost: int,
    characters: int,
    unknown: int,
    tokens: int,
) -> list[str]:
    """What to tell the user about a tokenizer's losses, one sentence each.

    Args:
        unknown_name: of the token that stands for what cannot be spelled.
        lost: characters that no token spells.
        characters: of the text.
        unknown: tokens that are the unknown one.
        tokens: in all.
    """
    remarks = []
    if lost:
        remarks.append(
            f"the tokenizer loses text: no token spells {lost:,} of "
            f"{counted(characters, 'character')} "
            f"({_share(lost, characters)})"
            + f", {_share(unknown, tokens)} of the tokens are {unknown_name}"
            * (unknown > 0)
        )
    return remarks


def _share(part: int, whole: int) -> str:
    share = 100 * part / whole
    return "less than 0.1 %" if share < 0.1 else f"{share:.1f} %"


def _begins(byte: int) -> bool:
    """Whether a byte is a character's first, and no white space."""
    return byte & 0xC0 != 0x80 and not chr(byte).isspace()


def _first_bytes() -> set[str]:
    """As a byte-level vocabulary spells them: bytes that can be printed as themselves."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    letters = {chr(byte): byte for byte in printed}
    letters |= {chr(256 + number): byte for number, byte in enumerate(others)}
    return {letter for letter, byte in letters.items() if _begins(byte)}


_FIRST_BYTES = _first_bytes()
