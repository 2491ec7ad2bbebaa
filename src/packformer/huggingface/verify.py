"""Checks an exported folder: ``transformers`` computes the logits that packformer does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor

from packformer.attention import PackedLayout
from packformer.huggingface.read import read
from packformer.model import GPT

TOLERANCE = 1e-5
"""Largest relative difference of float32 logits."""
_TEXT = "A text: f(x) = 2x,\n  naïve 数据."
_LONGEST = 512  # tokens of a document, unless a window needs more to matter
_LONGEST_WINDOW = 2048


class Verified(NamedTuple):
    """What came of it.

    Attributes:
        difference: 2-norm of the logits' difference by that of theirs.
        lengths: of the documents, in tokens.
    """

    difference: float
    lengths: tuple[int, ...]


def can_verify() -> bool:
    """Whether ``transformers`` is installed."""
    return find_spec("transformers") is not None


def verify(folder: str | Path) -> Verified:
    """Compares float32 logits of packed documents with those of each alone in ``transformers``.

    The model is read back from the folder, so files are checked too. Documents are random tokens,
    some longer than the window.

    Raises:
        ValueError: if a logit is not finite, the difference above ``TOLERANCE``, or the tokenizer
            gives other ids there.
        ImportError: without ``transformers``.
    """
    folder = Path(folder).expanduser()
    model, tokenizer = read(folder)
    model = model.float()
    if tokenizer is not None:
        _check_tokenizer(folder, tokenizer)
    lengths = _lengths(model)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.vocab_size, (1, sum(lengths)), generator=generator)
    with torch.no_grad():
        ours = model(tokens, PackedLayout.from_lengths(lengths))
        theirs = _their_logits(folder, tokens, lengths)
    difference = float(torch.linalg.norm(ours - theirs) / torch.linalg.norm(theirs))
    if not difference <= TOLERANCE:
        raise ValueError(
            f"{folder}: logits differ by {difference:.1e} from those of transformers, more than "
            f"{TOLERANCE:g}: do not use this export"
        )
    return Verified(difference, tuple(lengths))


def _check_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    from transformers import AutoTokenizer

    theirs: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ours = tokenizer.encode(_TEXT, add_special_tokens=False).ids
    found = theirs(_TEXT, add_special_tokens=False).input_ids
    if found != ours:
        raise ValueError(
            f"{folder}: transformers makes the ids {found} of {_TEXT!r}, and packformer {ours}: do "
            "not use its tokenizer"
        )


def _lengths(model: GPT) -> list[int]:
    window = model.layers[0].window or 0
    longest = _LONGEST if window > _LONGEST_WINDOW else max(_LONGEST, window + window // 2)
    longest = min(longest, model.max_position)
    return [longest, 1, max(1, longest // 3), min(2, longest), max(1, longest // 2 - 1)]


def _their_logits(folder: Path, tokens: Tensor, lengths: Sequence[int]) -> Tensor:
    from transformers import AutoModelForCausalLM

    with _quiet():
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, attn_implementation="eager"
        )
    model = model.float().eval()
    return torch.cat([model(part).logits for part in tokens.split(list(lengths), dim=1)], dim=1)


@contextmanager
def _quiet() -> Iterator[None]:
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
