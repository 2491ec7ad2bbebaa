"""Between text and tokens: prompts in, and what is written as it appears."""

from __future__ import annotations

import re
from codecs import getincrementaldecoder
from collections.abc import Sequence
from functools import cache
from itertools import takewhile

from tokenizers import Tokenizer, pre_tokenizers

from packformer.corpus.tokenizer import document_marks

_HALF_CHARACTER = "\N{REPLACEMENT CHARACTER}"
_BYTE = re.compile("<0x[0-9A-F]{2}>")
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
_PRINTED = _CONTROLS | {ord("\n"): "\n", ord("\t"): "\t"}


def encode_prompt(tokenizer: Tokenizer | None, text: str) -> list[int]:
    """Encodes a prompt like the start of a training document: with its first token, not its last.

    Args:
        tokenizer: of the model. A tokenizer that packformer did not train adds its own first token,
            if it has one. ``packformer.load`` gives None for a run that has no text, such as a
            synthetic task; there is nothing to encode with then.
        text: of the prompt; empty for the beginning of a document.

    Returns:
        Its token ids, at least one.

    Raises:
        ValueError: if it is no text, not UTF-8 or without a token, or there is no tokenizer.
    """
    if tokenizer is None:
        raise ValueError(
            "tokenizer (None) cannot encode text: the run has no text tokenizer, as a synthetic "
            "task; give generate token ids instead"
        )
    if not isinstance(tokenizer, Tokenizer):
        raise ValueError(
            f"tokenizer ({type(tokenizer).__name__}) must be a tokenizers.Tokenizer, such as "
            "packformer.load(...).tokenizer"
        )
    if not isinstance(text, str):
        raise ValueError(f"the prompt ({type(text).__name__}) must be text")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # bytes that were read as half a surrogate pair
        raise ValueError(
            f"the prompt is not UTF-8 at character {error.start + 1}: write it in UTF-8"
        ) from error
    marks = document_marks(tokenizer)
    if marks is not None:
        return [marks[0], *tokenizer.encode(text, add_special_tokens=False).ids]
    ids = tokenizer.encode(text).ids
    if not ids:
        raise ValueError(
            "the prompt is empty, and the tokenizer has no token that begins a document: give it "
            "at least one character"
        )
    return ids


def end_of_text(tokenizer: Tokenizer) -> list[int]:
    """The tokens that end a text: packformer's, else those of the usual names that there are."""
    if (marks := document_marks(tokenizer)) is not None:
        return [marks[1]]
    names = ("</s>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|im_end|>")
    found = [tokenizer.token_to_id(name) for name in names]
    return [token for token in found if token is not None]


def text_of(tokenizer: Tokenizer, tokens: Sequence[int], after: Sequence[int] = ()) -> str:
    """The text of tokens; of a last character that lacks bytes, nothing.

    Decoders write U+FFFD for such a character. A U+FFFD that the tokens spell stays.

    Args:
        tokenizer: of the model.
        tokens: ids.
        after: ids of what stands before them, which some tokenizers need to see them right.
    """
    before = _whole_characters(tokenizer, list(after))
    return _whole_characters(tokenizer, [*after, *tokens])[len(before) :]


def printable(text: str) -> str:
    r"""Text for a terminal or a log: control characters, which a model may write, as ``\x1b``.

    Newlines and tabs stay.
    """
    return text.translate(_PRINTED)


def _whole_characters(tokenizer: Tokenizer, tokens: list[int]) -> str:
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    if not text.endswith(_HALF_CHARACTER):
        return text
    added = tokenizer.get_added_tokens_decoder()
    told = [token for token in tokens if token not in added or not added[token].special]
    spelled = [tokenizer.id_to_token(token) or "" for token in told]
    if "ByteLevel" in repr(tokenizer.decoder):
        return text[:-1] if _begun(b"".join(map(_spelled_bytes, spelled))) else text
    # Single bytes are tokens of their own, and one that lacks others makes all in a row U+FFFD.
    last = list(takewhile(_BYTE.fullmatch, reversed(spelled)))[::-1]
    begun = _begun(bytes(int(token[3:5], 16) for token in last))
    return tokenizer.decode(told[: len(told) - begun])


def _begun(data: bytes) -> int:
    """How many bytes of a character that is not whole ``data`` ends with."""
    decoder = getincrementaldecoder("utf-8")("replace")
    decoder.decode(data)
    return len(decoder.getstate()[0])


def _spelled_bytes(token: str) -> bytes:
    """What a token of a byte-level vocabulary stands for."""
    values = _byte_of_character()
    if all(character in values for character in token):
        return bytes(values[character] for character in token)
    return token.encode()


@cache
def _byte_of_character() -> dict[str, int]:
    """The byte-level alphabet: printable bytes stand for themselves, the others follow in order."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    own = {character: ord(character) for character in alphabet if ord(character) < 256}
    others = (character for character in alphabet if character not in own)
    rest = (byte for byte in range(256) if chr(byte) not in own)
    return own | dict(zip(others, rest, strict=True))


class TextStream:
    """Turns tokens into text as they come, never half a character.

    Args:
        tokenizer: of the model.
        after: ids of what stands before them.
    """

    def __init__(self, tokenizer: Tokenizer, after: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        # Those told last, which some tokenizers need to see what follows them right, then the rest.
        self._tokens = list(after)
        self._told = len(self._tokens)

    def add(self, token: int) -> str:
        """What can be told of the text now; empty while a character lacks bytes."""
        self._tokens.append(token)
        told, text = self._texts()
        if text.endswith(_HALF_CHARACTER) or len(text) <= len(told):
            return ""
        del self._tokens[: self._told]
        self._told = len(self._tokens)
        return text[len(told) :]

    def end(self) -> str:
        """What was held back, but for a last character that lacks bytes."""
        told, rest = self._tokens[: self._told], self._tokens[self._told :]
        self._tokens, self._told = [], 0
        return text_of(self._tokenizer, rest, after=told)

    def _texts(self) -> tuple[str, str]:
        """The text of what was told last, and of all that is kept."""
        told, kept = (
            self._tokenizer.decode(tokens, skip_special_tokens=True)
            for tokens in (self._tokens[: self._told], self._tokens)
        )
        return told, kept
