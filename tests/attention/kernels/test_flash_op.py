"""The scaffold of flash-attention kernels, around an op of five lines that runs on CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from packformer.attention.kernels.flash_op import join_forward_and_backward


@torch.library.custom_op("packformer_test::scaled", mutates_args=())
def _scaled(
    q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, slopes: Tensor | None, scale: float, cap: int
) -> tuple[Tensor, Tensor]:
    weight = scale * (1 if slopes is None else 2) * bounds.sum() + cap
    total = k.sum() * v.sum()
    return q * weight * total, torch.zeros(q.shape[1], q.shape[0])


@torch.library.custom_op("packformer_test::scaled_backward", mutates_args=())
def _scaled_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    bounds: Tensor,
    slopes: Tensor | None,
    scale: float,
    cap: int,
) -> tuple[Tensor, Tensor, Tensor]:
    weight = scale * (1 if slopes is None else 2) * bounds.sum() + cap
    inner = (grad * q).sum() * weight
    dk, dv = torch.ones_like(k) * inner * v.sum(), torch.ones_like(v) * inner * k.sum()
    return grad * weight * k.sum() * v.sum(), dk, dv


join_forward_and_backward(_scaled, _scaled_backward, tensors=2)


@pytest.mark.parametrize("with_slopes", [False, True])
def test_gradients_reach_q_k_and_v_and_nothing_else(with_slopes: bool) -> None:
    q, k, v = (torch.rand(5, 2, 3, requires_grad=True, dtype=torch.float64) for _ in range(3))
    slopes = torch.ones(2) if with_slopes else None
    bounds = torch.tensor([0, 2, 5])

    def out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return _scaled(q, k, v, bounds, slopes, 0.5, 3)[0]

    torch.autograd.gradcheck(out, (q, k, v))


def test_the_ops_are_what_a_compiler_is_told() -> None:
    q, k, v = (torch.rand(5, 2, 3, requires_grad=True) for _ in range(3))
    torch.library.opcheck(_scaled, (q, k, v, torch.tensor([0, 5]), None, 0.5, 1))
