"""The GPUs of this machine, counted without torch."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress


def cards() -> list[str]:
    """Names of the GPUs that this process may use, as in ``CUDA_VISIBLE_DEVICES``."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    return [str(number) for number in range(_number())]


def _number() -> int:
    """As torch counts them: by the driver's library."""
    with suppress(OSError, AttributeError):  # not there, or older than these functions
        driver = ctypes.CDLL("libnvidia-ml.so.1")
        number = ctypes.c_uint()
        if driver.nvmlInit_v2() == 0 and driver.nvmlDeviceGetCount_v2(ctypes.byref(number)) == 0:
            return number.value
    import torch  # slow

    return torch.cuda.device_count()
