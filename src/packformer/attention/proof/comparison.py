"""Compares a kernel's results on one case with those of float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from packformer.attention.kernel import Kernel, Scoring
from packformer.attention.kernels.reference import reference_attention
from packformer.attention.layout import PackedLayout
from packformer.attention.proof.case import Case, Inputs
from packformer.attention.proof.rounding import expected_errors

Attention = Callable[[Tensor, Tensor, Tensor, PackedLayout, Scoring], Tensor]


@dataclass(frozen=True)
class Comparison:
    """How far a kernel is from float64 on one case.

    Both by the names ``out``, ``dq``, ``dk``, ``dv`` and, where they are learned, ``slopes`` and
    ``bias``.

    Attributes:
        relative: Frobenius norm of the error over that of the exact result. Says nothing where the
            exact result is zero or rounding outweighs it, as in some drawn cases.
        roundings: error of the worst token and head, in units of what rounding costs there.
    """

    relative: dict[str, float]
    roundings: dict[str, float]


def compare(kernel: Kernel, case: Case, device_type: str) -> Comparison:
    """Runs ``kernel`` on ``case``, forward and backward, and the float64 reference beside it."""
    inputs = case.inputs(device_type)
    found = results(kernel.run, inputs)
    wanted, expected = _exact(case, inputs)
    relative, roundings = {}, {}
    for name, value in found.items():
        error = value.double() - wanted[name].double()
        relative[name] = (torch.linalg.norm(error) / torch.linalg.norm(wanted[name])).item()
        by_token = error.abs() if name == "slopes" else torch.linalg.norm(error, dim=-1)
        units = by_token.reshape(expected[name].shape) / expected[name]
        roundings[name] = torch.where(by_token.view_as(units) == 0, 0.0, units).max().item()
    return Comparison(relative, roundings)


def _exact(case: Case, inputs: Inputs) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The results of float64, and the error that rounding alone causes in each."""
    # Else its gradients would be rounded to half precision.
    exact = inputs.changed(Tensor.double)
    return results(reference_attention, exact), expected_errors(exact, case.torch_dtype)


def results(run: Attention, inputs: Inputs) -> dict[str, Tensor]:
    """Output and gradients, by name."""
    learned, scoring = leaves(inputs)
    out = run(learned["dq"], learned["dk"], learned["dv"], inputs.layout, scoring)
    gradients = torch.autograd.grad(out, list(learned.values()), inputs.grad.to(out.dtype))
    return {"out": out.detach(), **dict(zip(learned, gradients, strict=True))}


def leaves(inputs: Inputs) -> tuple[dict[str, Tensor], Scoring]:
    """All that has a gradient, by the names of the results, and the options with some of it."""
    found = {"dq": inputs.q, "dk": inputs.k, "dv": inputs.v}
    options = {"slopes": inputs.scoring.alibi_slopes, "bias": inputs.scoring.bias}
    for name, option in options.items():
        if name in inputs.learned and isinstance(option, Tensor):
            found[name] = option
    found = {name: leaf.detach().requires_grad_() for name, leaf in found.items()}
    return found, inputs.scoring._replace(
        alibi_slopes=found.get("slopes", inputs.scoring.alibi_slopes),
        bias=found.get("bias", inputs.scoring.bias),
    )
