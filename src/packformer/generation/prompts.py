"""Prompts as lists of token ids, whatever they came as."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import index
from typing import Any

from torch import Tensor

Prompts = Sequence[Sequence[int] | Tensor] | Tensor
"""Token ids of each: whole numbers, ``[L]`` each or ``[B, L]``; a tensor ``[L]`` is one prompt."""


def as_lists(prompts: Prompts, vocab_size: int) -> list[list[int]]:
    """The token ids of each prompt.

    Args:
        prompts: at least one, of at least one token.
        vocab_size: V: ids are from 0 to V - 1.

    Raises:
        ValueError: if there is no prompt, one is empty or no sequence of token ids, or an id lies
            outside the vocabulary.
    """
    if isinstance(prompts, Tensor) and prompts.ndim == 1 and len(prompts):
        prompts = prompts[None]
    scalar = isinstance(prompts, Tensor) and not prompts.ndim
    if scalar or isinstance(prompts, str) or not isinstance(prompts, Iterable):
        raise ValueError(
            f"prompts ({_kind(prompts)}) must be token ids of each: give [[1, 2, 3]], or a tensor"
        )
    rows: list[Any] = prompts.tolist() if isinstance(prompts, Tensor) else list(prompts)
    if not rows:
        raise ValueError("there is no prompt: give at least one")
    found = [_tokens(number, row) for number, row in enumerate(rows, 1)]
    for number, tokens in enumerate(found, 1):
        if not tokens:
            raise ValueError(f"prompt {number} is empty: give it at least one token")
        if min(tokens) < 0 or max(tokens) >= vocab_size:
            raise ValueError(
                f"prompt {number} has a token from {min(tokens)} to {max(tokens)} that the model's "
                f"vocabulary of {vocab_size:,} has not: encode it with the model's own tokenizer"
            )
    return found


def _tokens(number: int, prompt: Any) -> list[int]:
    if isinstance(prompt, str):
        raise ValueError(f"prompt {number} is text: encode it with packformer.encode_prompt")
    try:
        return [
            index(token) for token in (prompt.tolist() if isinstance(prompt, Tensor) else prompt)
        ]
    except TypeError as error:
        raise ValueError(
            f"prompt {number} ({_kind(prompt)}) must be a sequence of token ids, whole numbers: "
            "give prompts such as [[1, 2, 3], [4, 5]]"
        ) from error


def _kind(value: Any) -> str:
    return f"{type(value).__name__} {value}" if isinstance(value, int) else type(value).__name__
