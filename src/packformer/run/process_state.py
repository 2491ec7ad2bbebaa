"""What a job of a sweep may change for its whole process, and the next one must not find."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple


class _Part(NamedTuple):
    """A part of torch's state, and how it is set."""

    read: Callable[[], Any]
    write: Callable[[Any], object]


_remembered: list[tuple[_Part, Any]] = []


def remember_torch() -> None:
    """Keeps in mind torch's state, just after its import."""
    _remembered[:] = [(part, part.read()) for part in _parts()]


def restore_torch() -> None:
    """Restores what ``remember_torch`` found; nothing if it was not called."""
    for part, value in _remembered:
        if _reads_other(part, value):
            part.write(value)


def _reads_other(part: _Part, value: Any) -> bool:
    try:
        return bool(part.read() != value)
    except RuntimeError:  # torch, of a precision that was set in its former and its new way
        return True


@contextmanager
def kept_environment() -> Iterator[None]:
    """Restores the variables of the environment and the current folder after the body."""
    folder, before = os.getcwd(), dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
        os.chdir(folder)


def _parts() -> list[_Part]:
    import torch

    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    switches = (
        *((cuda.matmul, f"allow_{name}_reduced_precision_reduction") for name in ("fp16", "bf16")),
        *((cudnn, name) for name in ("enabled", "benchmark", "deterministic", "allow_tf32")),
        (torch.utils.deterministic, "fill_uninitialized_memory"),
    )
    ways = ("flash", "mem_efficient", "math", "cudnn")  # of torch's fused attention
    return [
        _Part(_deterministic, lambda found: _set_deterministic(*found)),
        _Part(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        _Part(torch.get_default_dtype, torch.set_default_dtype),
        _Part(torch.get_default_device, torch.set_default_device),
        _Part(torch.get_num_threads, torch.set_num_threads),
        _Part(torch.is_grad_enabled, torch.set_grad_enabled),
        _Part(torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
        *(_attribute(place, name) for place, name in switches),
        *(
            _Part(getattr(cuda, f"{way}_sdp_enabled"), getattr(cuda, f"enable_{way}_sdp"))
            for way in ways
        ),
    ]


def _attribute(place: Any, name: str) -> _Part:
    return _Part(lambda: getattr(place, name), lambda value: setattr(place, name, value))


def _deterministic() -> tuple[bool, bool]:
    import torch

    enabled = torch.are_deterministic_algorithms_enabled()
    return enabled, torch.is_deterministic_algorithms_warn_only_enabled()


def _set_deterministic(enabled: bool, warn_only: bool) -> None:
    import torch

    torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
