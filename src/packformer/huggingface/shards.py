"""Tensors in one safetensors file, or in several with an index."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from packformer.bounded import check_in_its_folder, read_json

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_ERROR_NUMBER = re.compile(r"\(os error (\d+)\)")  # the library tells it in words alone
_METADATA = {"format": "pt"}  # transformers refuses files without


def write_tensors(
    tensors: Iterable[tuple[str, Tensor]], folder: Path, *, total_bytes: int, shard_bytes: int
) -> list[Path]:
    """Writes tensors into files of at most ``shard_bytes``, or of one larger tensor.

    Args:
        tensors: by name; may be views of the same memory.
        folder: to write to.
        total_bytes: of all.
        shard_bytes: of a file; if all fit into one, it gets no index.

    Returns:
        The files.

    Raises:
        OSError: if a file cannot be written.
    """
    shards = list(_shards(tensors, shard_bytes)) if total_bytes > shard_bytes else [dict(tensors)]
    if len(shards) == 1:
        return [_save(shards[0], folder / SINGLE_FILE)]
    files: list[Path] = []
    place: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        place |= dict.fromkeys(shard, name)
        files.append(_save(shard, folder / name))
    index = {"metadata": {"total_size": total_bytes}, "weight_map": place}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return [*files, folder / INDEX_FILE]


def _shards(tensors: Iterable[tuple[str, Tensor]], shard_bytes: int) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors:
        if shard and size + tensor.nbytes > shard_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    yield shard


def _save(tensors: dict[str, Tensor], file: Path) -> Path:
    try:
        # The library refuses views that share memory.
        save_file({name: t.clone() for name, t in tensors.items()}, file, metadata=_METADATA)
    except SafetensorError as error:
        if (told := _ERROR_NUMBER.search(str(error))) is None:
            raise OSError(str(error)) from error
        raise OSError(int(told[1]), os.strerror(int(told[1]))) from error
    file.chmod(file.parent.stat().st_mode & 0o666)  # the library's are for the user alone
    return file


class TensorFiles:
    """The safetensors files of a folder.

    Args:
        folder: to read.

    Attributes:
        file_of: each tensor's file.
        shapes: of the tensors.
        dtypes: of all of them, as the files name them.

    Raises:
        ValueError: if it has none, or one is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.file_of: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: set[str] = set()
        for file in self._files():
            with _opened(file) as opened:
                for name in opened.keys():  # noqa: SIM118 (no mapping)
                    view = opened.get_slice(name)
                    self.file_of[name] = file
                    self.shapes[name] = tuple(view.get_shape())
                    self.dtypes.add(view.get_dtype())

    def _files(self) -> list[Path]:
        index = self._folder / INDEX_FILE
        if not index.is_file():
            if not (self._folder / SINGLE_FILE).is_file():
                raise ValueError(
                    f"{self._folder} holds no {SINGLE_FILE} and no {INDEX_FILE}: give a folder "
                    "with safetensors"
                )
            return [self._checked(SINGLE_FILE)]
        try:
            names = list(dict.fromkeys(read_json(index)["weight_map"].values()))
            if strange := [name for name in names if not _is_plain(name)]:
                raise ValueError(f"{str(strange[0])[:100]!r} is no plain file name")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{index} is damaged ({error}): fetch the folder again") from error
        for name in names:
            if not (self._folder / name).is_file():
                raise ValueError(f"{index} names {name}, which is missing: fetch it")
        return [self._checked(name) for name in names]

    def _checked(self, name: str) -> Path:
        """The file; the cache of the Hugging Face hub keeps it elsewhere in its own folder."""
        file, folder = self._folder / name, self._folder.resolve()
        of_hub = folder.parent.name == "snapshots"
        check_in_its_folder(file, folder.parent.parent if of_hub else folder)
        return file

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The tensors of these names, on the CPU."""
        wanted: dict[Path, list[str]] = {}
        for name in names:
            wanted.setdefault(self.file_of[name], []).append(name)
        found: dict[str, Tensor] = {}
        for file, of_file in wanted.items():
            with _opened(file) as opened:
                found |= {name: opened.get_tensor(name) for name in of_file}
        return found


def _is_plain(name: Any) -> bool:
    return isinstance(name, str) and name.isprintable() and Path(name).name == name != ".."


def _opened(file: Path) -> safe_open:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{file} is truncated, damaged or no safetensors file ({error}): fetch it again"
        ) from error
