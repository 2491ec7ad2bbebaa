"""torch keeps graphs with autograd functions of packformer's, and does not mix them up."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters


def _gradient(factor: int) -> float:
    """Of a function that is compiled now, unless what another one left is taken for it."""

    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return grad * factor

    x = torch.ones(3, requires_grad=True)
    torch.compiler.reset()
    torch.compile(lambda x: Doubled.apply(x).sum(), fullgraph=True)(x).backward()
    assert x.grad is not None
    return x.grad[0].item()


def test_a_graph_is_found_again_by_its_backward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    counters.clear()
    seen = counters["aot_autograd"]
    # As keep_compiled sets it by the environment, which torch has read already.
    with torch._functorch.config.patch(autograd_cache_allow_custom_autograd_functions=True):
        assert _gradient(3) == 3
        assert _gradient(5) == 5
        assert seen["autograd_cache_hit"] == 0
        assert _gradient(3) == 3
        assert seen["autograd_cache_hit"] == 1
    assert seen["autograd_cache_bypass"] == 0
