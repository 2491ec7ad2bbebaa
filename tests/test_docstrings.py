"""Docstrings of what users call and derive from tell arguments and results."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

import packformer
from packformer import nn
from packformer.attention.kernel import KernelFunction
from packformer.model import SelfAttention

SCHEMES = [nn.NoPosition, nn.Learned, nn.Rotary, nn.ALiBi]
CALLED = [
    *(packformer.generate, packformer.encode_prompt, packformer.evaluate),
    *(packformer.packed_attention, SelfAttention.forward, KernelFunction.__call__),
    *(nn.Position.embed, nn.Position.rotation, nn.Position.rotate),
]


def _undocumented(made: Callable[..., Any]) -> list[str]:
    documented = re.findall(r"^    +(\w+(?:, \w+)*): ", made.__doc__ or "", re.MULTILINE)
    names = {name for entry in documented for name in entry.split(", ")}
    return [name for name in inspect.signature(made).parameters if name not in {*names, "self"}]


@pytest.mark.parametrize("made", [*SCHEMES, SelfAttention, packformer.GPT, *CALLED])
def test_every_argument_is_documented(made: Callable[..., Any]) -> None:
    assert not _undocumented(made)


@pytest.mark.parametrize("called", CALLED)
def test_every_result_is_documented(called: Callable[..., Any]) -> None:
    assert "Returns:" in (called.__doc__ or "")


@pytest.mark.parametrize("hook", [nn.Position.embed, nn.Position.rotation])
def test_hooks_tell_the_shape_of_positions(hook: Callable[..., Any]) -> None:
    assert "position_ids: int64 ``[M]``" in (hook.__doc__ or "")
