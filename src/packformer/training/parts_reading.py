"""Reads the parts of a checkpoint in shards, and runs nothing that stands in them.

Torch unpickles the table of the parts, ``.metadata``, and opens the files that it names.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

from packformer.bounded import MEBIBYTE, check_in_its_folder, read_bounded

TABLE = ".metadata"
_MOST_BYTES = 512 * MEBIBYTE
_PLAIN: dict[str, tuple[str, ...]] = {
    metadata.__name__: (
        *("ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta"),
        *("TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING"),
    ),
    filesystem.__name__: ("_StorageInfo",),
    "torch.serialization": ("_get_layout",),
    "torch": ("Size",),
    "pathlib": ("PosixPath", "WindowsPath"),
    "pathlib._local": ("PosixPath", "WindowsPath"),
}
"""What a table is made of, by module."""


class PartsReader(FileSystemReader):
    """Torch's reader, for a folder that may come from anyone.

    Args:
        folder: of the parts.
        files: in it that belong to the checkpoint.
    """

    def __init__(self, folder: Path, files: Collection[str]) -> None:
        super().__init__(folder)
        self._folder, self._files = folder, files

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The table.

        Raises:
            ValueError: if it holds anything but the places of tensors in the checkpoint's files.
        """
        content = read_bounded(self._folder / TABLE, _MOST_BYTES)
        try:
            table = _Unpickler(io.BytesIO(content)).load()
        except Exception as error:  # damaged pickles raise anything
            raise ValueError(f"{TABLE} is damaged: {error}") from error
        self._check(table)
        table.storage_meta = StorageMeta(load_id=self.load_id)
        return table

    def _check(self, table: Any) -> None:
        if not isinstance(table, Metadata) or not isinstance(table.storage_data, dict):
            raise ValueError(f"{TABLE} is no table of parts")
        for described in table.state_dict_metadata.values():
            if not isinstance(described, TensorStorageMetadata):
                raise ValueError(f"{TABLE} lists something that is no tensor")
        for place in table.storage_data.values():
            name = place.relative_path
            if name not in self._files or place.transform_descriptors is not None:
                raise ValueError(f"{TABLE} names a file {str(name)[:100]!r} of no part")
            check_in_its_folder(self._folder / name)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        if name in _PLAIN.get(module, ()):
            return super().find_class(module, name)
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        raise pickle.UnpicklingError(f"it names {module}.{name}, and was not run")
