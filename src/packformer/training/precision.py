"""Dtypes by Lightning's names of precisions."""

from __future__ import annotations

import torch

DTYPES = {
    "bf16-mixed": torch.bfloat16,
    "bf16-true": torch.bfloat16,
    "16-mixed": torch.float16,
    "16-true": torch.float16,
    "32-true": torch.float32,
    "64-true": torch.float64,
}
"""Of queries, keys and values, and of what autocast computes in."""
