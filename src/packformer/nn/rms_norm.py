"""Root-mean-square normalisation."""

from __future__ import annotations

from torch import Tensor, nn


class RMSNorm(nn.RMSNorm):
    """``torch.nn.RMSNorm`` (Zhang and Sennrich 2019) in the dtype of its weights.

    A half-precision residual stream under autocast meets float32 weights, for which torch has no
    fused operator; compiled, the conversion is part of one.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.weight is None else x.to(self.weight.dtype))
