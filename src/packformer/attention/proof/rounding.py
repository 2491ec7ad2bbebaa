r"""How far rounding alone takes a kernel from the exact result: the yardstick of all comparisons.

A kernel that computes attention in blocks stores the weights P, the scores' gradients dS, the
output O and the gradients in the dtype of its inputs. Each of these roundings errs by up to the
unit roundoff u, independently of the others, so that the errors' squares add up:

.. math::
    \epsilon(O_i)^2 &= \sum_j (u P_{ij})^2 \|v_j\|^2 + (u \|O_i\|)^2 \\
    \epsilon(dv_j)^2 &= \sum_i (u P_{ij})^2 \|g_i\|^2 + (u \|dv_j\|)^2 \\
    \delta_i^2 &= \sum_k g_{ik}^2 \, \epsilon(O_{ik})^2
        \quad \text{of } D_i = g_i \cdot O_i, \; dS_{ij} = P_{ij} (g_i \cdot v_j - D_i) \\
    \epsilon(dq_i)^2 &= s^2 \Big( \sum_j (u \, dS_{ij})^2 \|k_j\|^2
        + \delta_i^2 \big\| \sum_j P_{ij} k_j \big\|^2 \Big) + (u \|dq_i\|)^2

and likewise for dk. It adds up in float32, with unit roundoff w: a sum of terms t errs by about
w times the sum of \|t\|, a weight by w times the numbers that its score is made of. That decides
where the inputs are float32 themselves.

The yardstick is right for every magnitude, scale and length, and where terms cancel: the query
gradient of a document's first token is exactly zero, a kernel's is not. Unlike a bound on the whole
tensor it also sees one wrong token among ten thousand right ones.

Sources: Higham, "Accuracy and Stability of Numerical Algorithms" (2002), chapters 2 to 4; Dao et
al., "FlashAttention" (2022), appendix B, for what is stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from packformer.attention.kernels.reference import final_scores, visible
from packformer.attention.proof.case import Inputs

_STEPS = 4
"""Roundings between a score and its weight: scaled, shifted, exponentiated, normalised."""


@dataclass(frozen=True)
class _Precision:
    """Unit roundoffs of a kernel's dtype and of its sums."""

    stored: float
    least: float  # half the distance of the smallest numbers; of those whose square is not zero
    summed: float

    @classmethod
    def of(cls, dtype: torch.dtype) -> _Precision:
        info = torch.finfo(dtype)
        sums = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32)
        least = max(info.smallest_normal * info.eps / 2, sums.smallest_normal**0.5)
        return cls(info.eps / 2, least, sums.eps / 2)

    def storing(self, x: Tensor) -> Tensor:
        """The squared error of storing ``x``."""
        return (self.stored * x.abs() + self.least).square()

    def summing(self, sizes: Tensor) -> Tensor:
        """The squared error of sums whose terms' absolute values add up to ``sizes``."""
        return (self.summed * sizes).square()


def expected_errors(inputs: Inputs, dtype: torch.dtype) -> dict[str, Tensor]:
    """The error that rounding alone causes in each result of a right kernel: its norm per token.

    Args:
        inputs: of the call.
        dtype: that the kernel computes in.

    Returns:
        float32 (float64 for float64): ``out`` and ``dq`` ``[M, H]``, ``dk`` and ``dv`` ``[M, G]``,
        ``slopes`` ``[H]``, and with a bias ``bias`` ``[H or 1, M]``.
    """
    precision = _Precision.of(dtype)
    single = _Precision.of(torch.float32)  # slopes and biases, whatever the dtype
    computed = torch.promote_types(dtype, torch.float32)  # one per cent is exact enough
    q, k, v, grad = (x.to(computed).movedim(2, 1)[0] for x in inputs[:4])  # [H or G, M, K]
    group = q.shape[0] // k.shape[0]
    k, v = (x.repeat_interleave(group, dim=0) for x in (k, v))
    scale, layout = inputs.scoring.scale, inputs.layout

    def of_groups(x_HMK: Tensor) -> Tensor:
        return x_HMK.unflatten(0, (-1, group)).sum(1)

    raw, final, slope, bias_slope = _scores(inputs, q, k)
    seen = visible(layout, inputs.scoring.window)
    weights = final.masked_fill(~seen, float("-inf")).softmax(-1)
    blur = _STEPS * precision.summed * (1 + scale * q.abs() @ k.abs().mT + raw.abs() + final.abs())
    weight_errors = (weights * (precision.stored + blur) + precision.least * seen).square()

    out = weights @ v
    errors_out = (
        weight_errors @ v.square() + precision.summing(weights @ v.abs()) + precision.storing(out)
    )
    mean_errors = (grad.square() * errors_out).sum(-1)
    mean_errors += precision.summing((grad * out).abs().sum(-1))

    dweights = grad @ v.mT
    dscores = weights * (dweights - (weights * dweights).sum(-1, keepdim=True))
    own_errors = (
        precision.storing(dscores) * seen
        + (blur * dscores).square()
        + precision.summing(weights * (grad.abs() @ v.abs().mT))
    )
    if inputs.scoring.soft_cap is not None:  # 1 - tanh^2 cancels where the cap bites
        slope_error = (_STEPS * precision.summed * dscores).square()
    else:
        slope_error = torch.zeros_like(dscores)
    own_errors_raw = own_errors * slope.square() + slope_error
    all_errors_raw = own_errors_raw + (weights * slope).square() * mean_errors[:, :, None]

    dscores_raw = dscores * slope
    errors_dq = (
        scale**2 * own_errors_raw @ k.square()
        + scale**2 * mean_errors[:, :, None] * ((weights * slope) @ k).square()
        + precision.summing(scale * dscores_raw.abs() @ k.abs())
        + precision.storing(scale * dscores_raw @ k)
    )
    # Heads that share keys are one sum, or stored one by one before they are added up.
    errors_dk = of_groups(
        scale**2 * all_errors_raw.mT @ q.square() + precision.storing(scale * dscores_raw.mT @ q)
    ) + precision.summing(of_groups(scale * dscores_raw.abs().mT @ q.abs()))
    errors_dv = of_groups(
        weight_errors.mT @ grad.square() + precision.storing(weights.mT @ grad)
    ) + precision.summing(of_groups(weights.mT @ grad.abs()))

    squares = {
        "out": errors_out.sum(-1).T,
        "dq": errors_dq.sum(-1).T,
        "dk": errors_dk.sum(-1).T,
        "dv": errors_dv.sum(-1).T,
    }
    index = torch.arange(layout.num_tokens, device=q.device)
    distance = (index[:, None] - index[None, :]).to(computed)
    squares["slopes"] = (
        (own_errors * distance.square()).sum((-2, -1))
        + (mean_errors * (weights * distance).sum(-1).square()).sum(-1)
        + single.summing((dscores * distance).abs().sum((-2, -1)))
    )
    if bias_slope is not None:
        all_errors = own_errors + weights.square() * mean_errors[:, :, None]
        stored = (single.stored * dscores).square()
        by_query = ((all_errors + stored) * bias_slope.square()).sum(-1)
        assert inputs.scoring.bias is not None
        squares["bias"] = by_query.sum_to_size(inputs.scoring.bias.shape[0], by_query.shape[1])
    return {name: square.sqrt() for name, square in squares.items()}


def _scores(inputs: Inputs, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Scores before and after all options, and how they change with those before and the bias."""
    raw = (inputs.scoring.scale * q @ k.mT).detach().requires_grad_()
    scoring, bias = inputs.scoring, inputs.scoring.bias
    if bias is not None:
        bias = bias.detach().to(raw.dtype).expand(raw.shape).clone().requires_grad_()
        scoring = scoring._replace(bias=bias)
    with torch.enable_grad():
        final = final_scores(raw[None], scoring, inputs.q)[0].to(raw.dtype)
    if final is raw or not final.requires_grad:
        return raw.detach(), raw.detach(), torch.ones_like(raw), None
    leaves = [raw] if bias is None else [raw, bias]
    slopes = torch.autograd.grad(final.sum(), leaves)
    return raw.detach(), final.detach(), slopes[0], slopes[1] if bias is not None else None
