"""Checks a folder: ``transformers`` computes the logits that packformer does."""

from __future__ import annotations

from collections.abc import Iterator
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
from packformer.nn import Rotary

TOLERANCE = 1e-5
"""Largest relative difference of float32 logits."""
_FREQUENCY_TOLERANCE = 2e-6  # some roundings of float32, in their formula for Llama 3
_TEXT = "A text: f(x) = 2x,\n  naïve 数据."
_SLIDING = "sliding_attention"
_LONGEST = 512  # tokens of a document, unless a window needs more to matter
_LONGEST_WINDOW = 2048


class Verified(NamedTuple):
    """What came of it: 2-norms of the logits' difference, each by that of theirs.

    Attributes:
        difference: with rotary angles rounded as theirs are.
        with_own_angles: with packformer's.
        lengths: of the documents, in tokens.
    """

    difference: float
    with_own_angles: float
    lengths: tuple[int, ...]


def can_verify() -> bool:
    """Whether ``transformers`` is installed."""
    return find_spec("transformers") is not None


def verify(folder: str | Path) -> Verified:
    """Compares float32 logits of packed documents with those of each alone in ``transformers``.

    The model is read back from the folder, so files are checked too. Documents are random tokens,
    some longer than the window.

    Angles of rotary positions are products of a position and a frequency. ``transformers`` rounds
    frequencies and products to float32, which puts the angle at position 2,000 off by 1e-4. Sharp
    attention makes more than ``TOLERANCE`` of it. So frequencies are compared by themselves, and
    then packformer computes with the angles that ``transformers`` has.

    Raises:
        ValueError: if a logit is not finite, the difference above ``TOLERANCE``, or a frequency, a
            window or an id of the tokenizer another one there.
        ImportError: without ``transformers``.
    """
    folder = Path(folder).expanduser()
    model, tokenizer = read(folder)
    model = model.float()
    if tokenizer is not None:
        _check_tokenizer(folder, tokenizer)
    theirs = _their_model(folder)
    lengths = _lengths(model)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.vocab_size, (1, sum(lengths)), generator=generator)
    layout = PackedLayout.from_lengths(lengths)
    with torch.no_grad():
        parts = [theirs(part).logits for part in tokens.split(lengths, dim=1)]
        wanted = torch.cat(parts, dim=1)
        own_angles = _relative(model(tokens, layout), wanted)
        _take_angles(model, theirs.model.rotary_emb.inv_freq, max(lengths), folder)
        difference = _relative(model(tokens, layout), wanted)
    if not difference <= TOLERANCE:
        raise ValueError(
            f"{folder}: logits differ by {difference:.1e} from those of transformers, more than "
            f"{TOLERANCE:g}"
        )
    _check_windows(model, theirs, folder)
    return Verified(difference, own_angles, tuple(lengths))


def _relative(found: Tensor, wanted: Tensor) -> float:
    return (torch.linalg.norm(found - wanted) / torch.linalg.norm(wanted)).item()


def _take_angles(model: GPT, frequencies: Tensor, longest: int, folder: Path) -> None:
    """Gives the model the cosines and sines that ``transformers`` computes from its frequencies."""
    rotary = model.position
    assert isinstance(rotary, Rotary)
    error = (frequencies.double() / rotary.frequencies - 1).abs().max().item()
    if not error <= _FREQUENCY_TOLERANCE:
        raise ValueError(
            f"{folder}: rotary frequencies differ by {error:.1e} from those of transformers"
        )
    angles = torch.arange(longest).float()[:, None] * frequencies
    rotary.cos, rotary.sin = angles.cos(), angles.sin()


def _check_windows(model: GPT, theirs: Any, folder: Path) -> None:
    """Windows are compared by themselves: documents may all be shorter than one."""
    ours = [layer.window for layer in model.layers]
    config = theirs.config
    window = None if config.model_type == "llama" else config.sliding_window
    kinds = getattr(config, "layer_types", None) or [_SLIDING] * len(ours)
    found = [window if kind == _SLIDING else None for kind in kinds]
    if found != ours:
        raise ValueError(
            f"{folder}: the windows of the layers are {found} in transformers, and {ours} here"
        )


def _check_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    from transformers import AutoTokenizer

    theirs: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ours = tokenizer.encode(_TEXT, add_special_tokens=False).ids
    found = theirs(_TEXT, add_special_tokens=False).input_ids
    if found != ours:
        raise ValueError(
            f"{folder}: transformers makes the ids {found} of {_TEXT!r}, and packformer {ours}"
        )


def _lengths(model: GPT) -> list[int]:
    window = model.layers[0].window or 0
    longest = _LONGEST if window > _LONGEST_WINDOW else max(_LONGEST, window + window // 2)
    longest = min(longest, model.max_position)
    return [longest, 1, max(1, longest // 3), min(2, longest), max(1, longest // 2 - 1)]


def _their_model(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    with _quiet():
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, attn_implementation="eager"
        )
    return model.float().eval()


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
