"""Chooses device and precision by what the machine has."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator

from packformer.counted import counted
from packformer.run.strategies import check_strategy_fits, is_sharded
from packformer.run.trainer_settings import refuse_half_on_cpu
from packformer.training.float8 import Float8

_UNKNOWN_MEMORY = 8 * 2**30
_FLOAT8_CAPABILITY = (8, 9)
_SHARDED_PRECISIONS = ("32-true", "bf16-mixed", "bf16-true")
PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "16-mixed", "16-true", "64-true")


def resolve_accelerator(accelerator: str) -> str:
    """``"cuda"`` or ``"cpu"`` from ``auto``, ``gpu``, ``cuda`` or ``cpu``.

    Raises:
        ValueError: if there is no such device.
    """
    available = torch.cuda.is_available()
    choices = {"auto": "cuda" if available else "cpu", "gpu": "cuda", "cuda": "cuda", "cpu": "cpu"}
    if accelerator not in choices:
        raise ValueError(
            f"trainer.accelerator ({accelerator!r}) must be one of {', '.join(choices)}"
        )
    if choices[accelerator] == "cuda" and not available:
        raise ValueError(
            f"trainer.accelerator ({accelerator!r}) needs a CUDA GPU and torch {torch.__version__} "
            "sees none: use auto or cpu"
        )
    return choices[accelerator]


def num_devices(devices: Any, accelerator: str) -> int:
    """How many devices of this machine ``devices`` are: a number, a list, ``"0,1"``, ``"auto"``.

    Raises:
        ValueError: if they are none, or not there.
    """
    if isinstance(devices, bool):  # which Lightning takes for 1
        raise ValueError(f"trainer.devices ({devices}) must be a number, a list or auto")
    kind: Any = CUDAAccelerator if accelerator == "cuda" else CPUAccelerator
    asked = kind.auto_device_count() if devices == "auto" else devices
    try:
        return len(kind.get_parallel_devices(kind.parse_devices(asked)))
    except MisconfigurationException as error:
        if accelerator != "cuda":
            raise ValueError(_no_cpus(devices)) from error
        there = counted(kind.auto_device_count(), "GPU")
        raise ValueError(
            f"trainer.devices ({devices}): this machine has {there}, and each is used once at most"
        ) from error
    except (TypeError, ValueError) as error:
        told = f"trainer.devices ({devices}): {error}" if accelerator == "cuda" else None
        raise ValueError(told or _no_cpus(devices)) from error


def _no_cpus(devices: Any) -> str:
    return (
        f"trainer.devices ({devices}) must be a number from 1 up on a CPU: -1 and lists are of GPUs"
    )


def check_strategy(strategy: Any, num_ranks: int, precision: str) -> None:
    """Refuses a strategy that these devices or their precision cannot use.

    Args:
        strategy: ``trainer.strategy``, as text, as a group of settings or None.
        num_ranks: devices of all nodes.
        precision: Lightning's name.

    Raises:
        ValueError: naming it, and what to set instead.
    """
    check_strategy_fits(strategy, num_ranks)
    if is_sharded(strategy) and precision not in _SHARDED_PRECISIONS:
        raise ValueError(
            f"trainer.precision ({precision}) does not go with trainer.strategy=fsdp2: use one of "
            f"{', '.join(_SHARDED_PRECISIONS)}"
        )


def memory_bytes(accelerator: str) -> int:
    """Memory of the GPU, or of this machine (8 GiB where the system does not say)."""
    if accelerator == "cuda":
        return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return _UNKNOWN_MEMORY


def resolve_precision(precision: str, accelerator: str) -> str:
    """Lightning's name of the precision; ``auto`` is bf16-mixed where the GPU has it.

    Raises:
        ValueError: if the precision is unknown or the device lacks it.
    """
    bf16_on_gpu = accelerator == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "auto":
        return "bf16-mixed" if bf16_on_gpu else "32-true"
    if precision not in PRECISIONS:
        raise ValueError(
            f"trainer.precision ({precision!r}) must be auto or one of {', '.join(PRECISIONS)}"
        )
    if accelerator == "cpu":
        refuse_half_on_cpu(precision)
    if accelerator == "cuda" and precision.startswith("bf16") and not bf16_on_gpu:
        raise ValueError(
            f"trainer.precision ({precision}) is not in this GPU "
            f"({torch.cuda.get_device_name()}): use 16-mixed or 32-true"
        )
    return precision


def resolve_float8(
    asked: bool | str, accelerator: str, precision: str, row_length: int
) -> Float8 | None:
    """How linear layers compute in float8; None if they do not.

    Args:
        asked: ``trainer.float8``: false, true or ``"emulate"``.
        accelerator: ``"cuda"`` or ``"cpu"``.
        precision: Lightning's name.
        row_length: M, tokens per row.

    Raises:
        ValueError: if torchao is missing, the device has no float8, or something does not fit it.
    """
    if asked is False:
        return None
    shown = f"trainer.float8 ({str(asked).lower()})"
    if asked is not True and asked != "emulate":
        raise ValueError(f"{shown} must be true, false or emulate")
    if find_spec("torchao") is None:
        raise ValueError(f"{shown} needs torchao, which is not installed: pip install '.[fp8]'")
    emulate = asked == "emulate"
    if not emulate:
        _check_has_float8(shown, accelerator)
    if precision not in ("bf16-mixed", "bf16-true", *(["32-true"] if emulate else [])):
        raise ValueError(f"{shown} does not go with trainer.precision={precision}: use bf16-mixed")
    return Float8(row_length, emulate)


def _check_has_float8(shown: str, accelerator: str) -> None:
    needed = f"{shown} needs a GPU of compute capability 8.9 or newer"
    if accelerator == "cpu":
        raise ValueError(f"{needed}: on a CPU use emulate, which only rounds, or leave it out")
    if (found := torch.cuda.get_device_capability()) < _FLOAT8_CAPABILITY:
        raise ValueError(
            f"{needed}, and {torch.cuda.get_device_name()} has {found[0]}.{found[1]}: leave it out"
        )
