"""Between text and tokens: prompts in, and what is written as it appears."""

from __future__ import annotations

from tokenizers import Tokenizer

from packformer.corpus.tokenizer import document_marks

_HALF_CHARACTER = "\N{REPLACEMENT CHARACTER}"


def encode_prompt(tokenizer: Tokenizer | None, text: str) -> list[int]:
    """A prompt as the model met texts in training: with their first token, without their last.

    Args:
        tokenizer: of the model. One that is not of packformer's making adds its own first token,
            if it has one. ``packformer.load`` gives None for a run that has no text, such as a
            synthetic task; there is nothing to encode with then.
        text: of the prompt.

    Returns:
        Its token ids, at least one.

    Raises:
        ValueError: if the text is empty, no text or not UTF-8, or there is no tokenizer.
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
    if not text:
        raise ValueError("the prompt is empty: give it at least one character")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # bytes that were read as half a surrogate pair
        raise ValueError(
            f"the prompt is not UTF-8 at character {error.start + 1}: write it in UTF-8"
        ) from error
    marks = document_marks(tokenizer)
    if marks is None:
        return tokenizer.encode(text).ids
    return [marks[0], *tokenizer.encode(text, add_special_tokens=False).ids]


def end_of_text(tokenizer: Tokenizer) -> list[int]:
    """The tokens that end a text: packformer's, else those of the usual names that there are."""
    if (marks := document_marks(tokenizer)) is not None:
        return [marks[1]]
    names = ("</s>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|im_end|>")
    found = [tokenizer.token_to_id(name) for name in names]
    return [token for token in found if token is not None]


class TextStream:
    """Turns tokens into text as they come, never half a character.

    Args:
        tokenizer: of the model.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # Those told last, which some tokenizers need to see what follows them right, then the rest.
        self._tokens: list[int] = []
        self._told = 0

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
        """What was held back, a character that never became whole included."""
        told, text = self._texts()
        self._tokens, self._told = [], 0
        return text[len(told) :]

    def _texts(self) -> tuple[str, str]:
        """The text of what was told last, and of all that is kept."""
        told, kept = (
            self._tokenizer.decode(tokens, skip_special_tokens=True)
            for tokens in (self._tokens[: self._told], self._tokens)
        )
        return told, kept
