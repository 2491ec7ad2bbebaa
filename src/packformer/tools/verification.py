"""Compares a folder with ``transformers`` and tells what came of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from packformer import huggingface
from packformer.model import GPT


def check_finite(model: GPT, place: str) -> None:
    """Refuses weights that are NaN or infinite.

    Args:
        model: any.
        place: where it was read, for the message.

    Raises:
        ValueError: naming the first such tensor.
    """
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise ValueError(
                f"{place} is of no use: {name} holds NaN or infinite values; take an earlier "
                "checkpoint, or fetch the folder again"
            )


def tell_verification(folder: Path, *, verified: bool) -> None:
    """Prints how float32 logits differ, or why they were not compared.

    Args:
        folder: of ``transformers``.
        verified: whether to compare, if ``transformers`` is installed.

    Raises:
        ValueError: if they differ by more than ``huggingface.TOLERANCE``.
    """
    if not verified:
        print("not checked: --no-verify")
    elif not huggingface.can_verify():
        print("not checked: transformers is not installed (pip install transformers)")
    else:
        with _without_torchao():
            found = huggingface.verify(folder)
        lengths = f"{min(found.lengths)} to {max(found.lengths):,} tokens"
        print(
            f"checked with transformers {version('transformers')}: float32 logits of "
            f"{len(found.lengths)} packed documents of {lengths} differ by {found.difference:.1e} "
            f"from those of each alone (2-norm, relative; at most {huggingface.TOLERANCE:g}), and "
            f"by {found.with_own_angles:.1e} without transformers' rounding of rotary angles"
        )


@contextmanager
def _without_torchao() -> Iterator[None]:
    """Lets ``transformers`` import no torchao: none of these models is quantized.

    It would with every model, and torchao takes seconds and tells what it lacks on this machine.
    """
    if "torchao" in sys.modules:
        yield
        return
    sys.modules["torchao"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torchao"]
