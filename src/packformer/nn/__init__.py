"""Building blocks that know nothing of attention kernels, data or training."""

from packformer.nn.position import (
    ALiBi,
    Learned,
    Located,
    NoPosition,
    Position,
    Rotary,
    Scores,
    published_slopes,
)
from packformer.nn.rms_norm import RMSNorm
from packformer.nn.swiglu import SwiGLU
from packformer.nn.value_embedding import ValueEmbedding

__all__ = [
    "ALiBi",
    "Learned",
    "Located",
    "NoPosition",
    "Position",
    "RMSNorm",
    "Rotary",
    "Scores",
    "SwiGLU",
    "ValueEmbedding",
    "published_slopes",
]
