"""The kernels, one file each, and the order in which they are preferred."""

from packformer.attention.kernel import Kernel
from packformer.attention.kernels.flash4 import flash4_kernel
from packformer.attention.kernels.flex import flex_kernel
from packformer.attention.kernels.reference import reference_kernel
from packformer.attention.kernels.sdpa import sdpa_kernel
from packformer.attention.kernels.xformers import xformers_kernel

BY_PREFERENCE: tuple[Kernel, ...] = (flash4_kernel, xformers_kernel, flex_kernel, sdpa_kernel)
"""What ``auto`` chooses from. The float64 reference runs only if it is named."""

KERNELS: dict[str, Kernel] = {k.name: k for k in (*BY_PREFERENCE, reference_kernel)}
"""Every kernel by its name."""

__all__ = ["BY_PREFERENCE", "KERNELS"]
