"""Hostile checkpoints."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from .case import (
    GENERATE,
    MARKER,
    Case,
    copied,
    write,
)


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (MARKER,)


def checkpoints() -> Iterator[Case]:
    def saved(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
        def build(run: Path) -> None:
            file = run / "checkpoints" / "last.ckpt"
            checkpoint = torch.load(file, weights_only=True)
            (run / "checkpoints" / "best.ckpt").unlink(missing_ok=True)
            torch.save(change(checkpoint), file)

        return build

    def with_shards(**changes: Any) -> Callable[[dict[str, Any]], Any]:
        described = {"path": ["state_dict", "model.x"], "shape": [1], "dtype": "float32"}
        whole = {"folder": "a", "files": {".metadata": [1, 1]}, "tensors": {"x": described}}
        return lambda checkpoint: {**checkpoint, "shards": {**whole, **changes}}

    def replaced(content: bytes) -> Callable[[Path], None]:
        def build(run: Path) -> None:
            for name in ("best", "last"):
                write(run / "checkpoints" / f"{name}.ckpt", content)

        return build

    def zipped(compressed: bool, pickled: bytes, times: int = 1) -> Callable[[Path], None]:
        def build(run: Path) -> None:
            kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
            for name in ("best", "last"):
                file = run / "checkpoints" / f"{name}.ckpt"
                with zipfile.ZipFile(file, "w", kind) as archive:
                    archive.writestr("archive/data.pkl", pickled)
                    archive.writestr("archive/version", "3")
                    for number in range(times - 1):
                        archive.writestr(f"archive/data/{number}", bytes(2**27))

        return build

    def table(run: Path) -> None:
        folder = run / "checkpoints" / "shards" / "a"
        folder.mkdir(parents=True)
        content = pickle.dumps(Payload())
        (folder / ".metadata").write_bytes(content)
        import zlib

        files = {".metadata": [len(content), zlib.crc32(content)]}
        described = {"path": ["state_dict", "model.x"], "shape": [1], "dtype": "float32"}
        saved(
            with_shards(files=files, tensors={"x": {**described, "shape": [0]}}),
        )(run)

    def claimed(checkpoint: dict[str, Any]) -> Any:
        state = dict(checkpoint["state_dict"])
        state["model.embedding.weight"] = torch.zeros(1).expand(10**9, 64)
        return {**checkpoint, "state_dict": state}

    changes: dict[str, Callable[[Path], None]] = {
        "a pickle that runs": replaced(pickle.dumps(Payload())),
        "an archive whose pickle runs": zipped(False, pickle.dumps(Payload())),
        "a module that runs": saved(lambda c: {**c, "x": Payload()}),
        "a table of parts that runs": table,
        "an archive that unpacks to 4 GiB": zipped(True, pickle.dumps({}), 32),
        "shards in a folder above": saved(with_shards(folder="../../../outside")),
        "shards in an absolute folder": saved(with_shards(folder="/etc")),
        "parts above the folder": saved(with_shards(files={"../x": [1, 1]})),
        "parts of negative size": saved(with_shards(files={".metadata": [-1, 1]})),
        "shards as text": saved(lambda c: {**c, "shards": "x"}),
        "a tensor of 10^15 values in shards": saved(
            with_shards(
                tensors={"x": {"path": ["state_dict", "a"], "shape": [10**15], "dtype": "int8"}}
            )
        ),
        "a tensor that repeats one value 64 billion times": saved(claimed),
        "weights as text": saved(lambda c: {**c, "state_dict": "x"}),
        "weights of numbers": saved(lambda c: {**c, "state_dict": {"model.norm.weight": 3}}),
        "no weights": saved(lambda c: {**c, "state_dict": {}}),
        "a list": saved(lambda c: [c]),
        "a step as text": saved(lambda c: {**c, "global_step": "x"}),
        "no place in the data": saved(lambda c: {**c, "PackedDataModule": 3}),
        "text": replaced(b"x" * 1000),
        "empty": replaced(b""),
        "zeros": replaced(bytes(2**20)),
    }
    for name, change in changes.items():
        build = copied("run", change)
        yield Case(f"checkpoint: {name}", "checkpoint", GENERATE, build)
    for name in ("a step as text", "no place in the data", "shards in a folder above"):
        build = copied("run", changes[name])
        yield Case(f"checkpoint, resumed: {name}", "checkpoint", ("train", "resume=run"), build)
    build = copied("run", changes["an archive whose pickle runs"])
    resumed = ("train", "resume=run/checkpoints/last.ckpt")
    yield Case("checkpoint, resumed: an archive whose pickle runs", "checkpoint", resumed, build)
