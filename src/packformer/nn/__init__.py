"""Building blocks that know nothing of attention kernels, data or training."""

from packformer.nn.position import ALiBi, Learned, NoPosition, Position, Rotary, published_slopes
from packformer.nn.rms_norm import RMSNorm
from packformer.nn.swiglu import SwiGLU

__all__ = [
    "ALiBi",
    "Learned",
    "NoPosition",
    "Position",
    "RMSNorm",
    "Rotary",
    "SwiGLU",
    "published_slopes",
]
