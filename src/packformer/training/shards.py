"""The form of a checkpoint in shards: a small file, and beside it a folder with the tensors' parts.

The file holds everything but sharded tensors, and says which folder and which files belong to it.
It is written last and replaces its predecessor in one step. So a checkpoint is whole or absent.
"""

from __future__ import annotations

import shutil
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor

from packformer.bounded import check_in_its_folder
from packformer.training.checkpoint_form import check_parts
from packformer.training.parts_reading import PartsReader

FOLDER = "shards"
"""Beside the checkpoints; each save has a folder in it."""
PARTS = "shards"
"""Where a checkpoint says which files and tensors it has."""
_CHUNK = 2**24  # bytes

Files = dict[str, list[int]]
"""Size in bytes and CRC-32 of each file, by its name."""


def is_sharded(checkpoint: Mapping[str, Any]) -> bool:
    """Whether its tensors lie in a folder of their own."""
    return PARTS in checkpoint


def take_out(checkpoint: dict[str, Any]) -> tuple[dict[str, Any], dict[str, DTensor]]:
    """A copy of a checkpoint without its sharded tensors, and these by their places.

    The copy does not change while training continues. It notes place, shape and type of each
    sharded tensor; ``load_tensors`` is the inverse.
    """
    found: dict[str, DTensor] = {}
    described: dict[str, Any] = {}

    def rest_of(node: Any, path: tuple[Any, ...]) -> Any:
        if isinstance(node, dict):
            children = {key: rest_of(child, (*path, key)) for key, child in node.items()}
            return {key: child for key, child in children.items() if child is not _TAKEN}
        if isinstance(node, list):
            return [rest_of(child, (*path, number)) for number, child in enumerate(node)]
        if not isinstance(node, DTensor):
            is_tensor = isinstance(node, Tensor)
            return node.detach().to("cpu", copy=True) if is_tensor else deepcopy(node)
        place = ".".join(map(str, path))
        found[place] = node
        dtype = str(node.dtype).removeprefix("torch.")
        described[place] = {"path": list(path), "shape": list(node.shape), "dtype": dtype}
        return _TAKEN

    rest = rest_of(checkpoint, ())
    return {**rest, PARTS: {"tensors": described}}, found


_TAKEN = object()


def with_files(checkpoint: dict[str, Any], folder: str, files: Files) -> dict[str, Any]:
    """``checkpoint`` with the name of its folder and what is in that."""
    return {**checkpoint, PARTS: {**checkpoint[PARTS], "folder": folder, "files": files}}


def shapes(checkpoint: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors of the Lightning module, sharded or not, by their names in it."""
    found = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
    for described in _tensors(checkpoint).values():
        group, *path = described["path"]
        if group == "state_dict":
            found[path[0]] = tuple(described["shape"])
    return found


def load_tensors(
    path: Path,
    checkpoint: dict[str, Any],
    make: Callable[[list[int], torch.dtype], Tensor] | None = None,
    *,
    only: str | None = None,
    process_group: Any = None,
) -> dict[str, Any]:
    """Puts the tensors of a checkpoint in shards back where they were, whole or sharded anew.

    Args:
        path: of the checkpoint.
        checkpoint: read from there.
        make: from shape and type a tensor to read into, sharded over the ranks of
            ``process_group``, all of which call this function; None for whole tensors on the CPU.
        only: the one entry of the checkpoint to complete; None for all.
        process_group: of the ranks; None for this process alone.

    Raises:
        ValueError: if a file is missing or cannot be read.
    """
    wanted = {
        place: described
        for place, described in _tensors(checkpoint).items()
        if only is None or described["path"][0] == only
    }
    make = make or (lambda shape, dtype: torch.empty(shape, dtype=dtype))
    tensors: dict[str, Any] = {
        place: make(described["shape"], getattr(torch, described["dtype"]))
        for place, described in wanted.items()
    }
    reader = PartsReader(folder_of(path, checkpoint), checkpoint[PARTS]["files"])
    alone = process_group is None
    try:
        if tensors:
            if alone:
                reader.read_metadata()  # torch would log a traceback of what is wrong in it
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "torch.distributed is disabled")
                state_dict_loader.load(
                    tensors, storage_reader=reader, process_group=process_group, no_dist=alone
                )
    except (Exception, CheckpointException) as error:  # of any type, also of other ranks
        raise ValueError(_damaged(path, folder_of(path, checkpoint), _reason(error))) from error
    for place, described in wanted.items():
        *parents, last = described["path"]
        node: Any = checkpoint
        for key in parents:
            node = node.setdefault(key, {}) if isinstance(node, dict) else node[key]
        node[last] = tensors[place]
    return {key: value for key, value in checkpoint.items() if key != PARTS}


def check_files(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Checks that the files of a checkpoint in shards are there and of the right size.

    Raises:
        ValueError: naming the first that is not.
    """
    try:
        check_parts(checkpoint[PARTS])
        folder = folder_of(path, checkpoint)
        check_in_its_folder(folder)
    except ValueError as error:
        raise ValueError(f"checkpoint {path} is damaged: {error}") from error
    for name, (size, _) in checkpoint[PARTS]["files"].items():
        file = folder / name
        if not file.is_file():
            raise ValueError(_damaged(path, file, "it is missing"))
        check_in_its_folder(file)
        if file.stat().st_size != size:
            raise ValueError(_damaged(path, file, f"{file.stat().st_size:,} bytes of {size:,}"))


def check_sums(path: Path, checkpoint: Mapping[str, Any], rank: int = 0, ranks: int = 1) -> None:
    """Checks the checksums of a checkpoint's files, each of ``ranks`` its share of them.

    Raises:
        ValueError: naming the first file that is damaged.
    """
    check_files(path, checkpoint)
    folder = folder_of(path, checkpoint)
    for number, (name, (_, crc)) in enumerate(checkpoint[PARTS]["files"].items()):
        if number % ranks == rank and sum_of(folder / name)[1] != crc:
            raise ValueError(_damaged(path, folder / name, "its checksum is wrong"))


def sum_of(file: Path) -> list[int]:
    """Size and CRC-32."""
    crc, size = 0, 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            crc, size = zlib.crc32(chunk, crc), size + len(chunk)
    return [size, crc]


def folder_of(path: Path, checkpoint: Mapping[str, Any]) -> Path:
    """Where the parts of the tensors lie."""
    return path.parent / FOLDER / checkpoint[PARTS]["folder"]


def remove_unused(folder: Path, keep: Iterable[str] = ()) -> None:
    """Removes shards in a folder of checkpoints that no checkpoint there names.

    Nothing is removed while one of them cannot be read, and nothing that lies elsewhere.

    Args:
        folder: of the checkpoints.
        keep: names of folders of shards that stay in any case.
    """
    used, every = set(keep), folder / FOLDER
    if every.is_symlink():
        return
    for file in folder.glob("*.ckpt"):
        if not file.is_file():  # to open a pipe would wait for ever
            return
        try:
            read = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        except Exception:  # a damaged file can make the unpickler raise anything
            return
        if is_sharded(read):
            used.add(str(read[PARTS]["folder"]))
    for shards in every.glob("*"):
        if shards.name not in used and shards.is_dir() and not shards.is_symlink():
            shutil.rmtree(shards)


def _tensors(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    return checkpoint[PARTS]["tensors"] if is_sharded(checkpoint) else {}


def _damaged(path: Path, file: Path, reason: str) -> str:
    return f"checkpoint {path} is not whole, {file}: {reason}"


def _reason(error: BaseException) -> str:
    return " ".join(str(error).strip().split("\n")[-1].split()) or type(error).__name__
