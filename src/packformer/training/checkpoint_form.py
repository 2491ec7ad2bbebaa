"""What a checkpoint must be like before its content is used: it may come from anyone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

_FOLDER = re.compile(r"\w[\w.-]{0,199}", re.ASCII)
_PART = re.compile(r"__\d+_\d+\.distcp|\.metadata", re.ASCII)
_MOST_VALUES = 2**48


def check_form(checkpoint: dict[str, Any]) -> None:
    """Checks the kinds of what every checkpoint holds.

    Raises:
        ValueError: naming what is not as it must be.
    """
    if not isinstance(checkpoint.get("packformer"), dict):
        raise ValueError("it does not say which settings it has")
    state, step = checkpoint.get("state_dict"), checkpoint.get("global_step")
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise ValueError(f"its step is {str(step)[:100]}")
    if not isinstance(state, Mapping):
        raise ValueError("it holds no weights")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or not _is_held(value):
            raise ValueError(f"{str(name)[:100]} is no tensor that it holds")
    position = checkpoint.get("PackedDataModule")
    if not isinstance(position, dict) or not isinstance(position.get("stream"), dict):
        raise ValueError("it does not say where training stands in the data")


def _is_held(tensor: Tensor) -> bool:
    """Whether all values lie in the file; a tensor may claim any size by repeating them."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        return False
    return bool(tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.itemsize)


def check_parts(shards: Any) -> None:
    """Checks what a checkpoint in shards says of its folder, files and tensors.

    Raises:
        ValueError: naming what is not as it must be.
    """
    if not isinstance(shards, dict) or not isinstance(shards.get("tensors"), dict):
        raise ValueError("it does not say which tensors it has")
    folder, files = shards.get("folder"), shards.get("files")
    if not isinstance(folder, str) or not _FOLDER.fullmatch(folder):
        raise ValueError(f"its folder ({str(folder)[:100]!r}) must be a plain name")
    if not isinstance(files, dict):
        raise ValueError("it does not say which files it has")
    for name, sums in files.items():
        if not isinstance(name, str) or not _PART.fullmatch(name):
            raise ValueError(f"a file ({str(name)[:100]!r}) must have the name of a part")
        if not isinstance(sums, list | tuple) or len(sums) != 2 or not all(map(_is_count, sums)):
            raise ValueError(f"{name} must have a size and a checksum")
    held = sum(size for size, _ in files.values())
    for place, described in shards["tensors"].items():
        if not _is_description(described):
            raise ValueError(f"its description of {str(place)[:100]} is damaged")
        dtype: torch.dtype = getattr(torch, described["dtype"])
        if prod(described["shape"]) * dtype.itemsize > held:
            raise ValueError(f"{str(place)[:100]} is larger than its files")


def _is_description(described: Any) -> bool:
    if not isinstance(described, dict):
        return False
    path, shape, dtype = (described.get(name) for name in ("path", "shape", "dtype"))
    return (
        isinstance(path, list)
        and len(path) > 1
        and all(isinstance(key, str | int) for key in path)
        and isinstance(shape, list)
        and all(map(_is_count, shape))
        and isinstance(dtype, str)
        and isinstance(getattr(torch, dtype, None), torch.dtype)
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST_VALUES
