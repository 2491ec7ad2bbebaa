"""The peak memory of a run, on the GPU and in the process."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_PEAK = "5"  # Linux's number for it


def peak_gpu_bytes(device: torch.device) -> int | None:
    """Most bytes that tensors took on ``device``; None for a CPU. The device is not waited for."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def forget_process_peak() -> None:
    """Has ``peak_process_bytes`` count from now on, where the system can; on Linux it can."""
    with suppress(OSError):
        _CLEAR.write_text(_PEAK, encoding="ascii")


def peak_process_bytes() -> int | None:
    """Most bytes of main memory that this process held, without those of loader processes.

    None where the system does not say, as on Windows.
    """
    with suppress(OSError, StopIteration):  # as Linux has it; its getrusage counts the parent too
        lines = _STATUS.read_text(encoding="ascii").splitlines()
        peak = next(line for line in lines if line.startswith("VmHWM:"))
        return 1024 * int(peak.split()[1])
    with suppress(ImportError):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return None
