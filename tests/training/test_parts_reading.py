"""The parts of a checkpoint run nothing and lead nowhere else."""

from __future__ import annotations

import os
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint import state_dict_saver
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from packformer.training import AtomicCheckpointIO
from packformer.training.checkpoint import read_weights
from packformer.training.shards import check_files, load_tensors, sum_of

_PATH = ["state_dict", "model.weight"]
_WEIGHT = torch.arange(12.0).reshape(4, 3)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A checkpoint in shards, of one tensor."""
    folder = tmp_path / "shards" / "4-ab"
    folder.mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        place = ".".join(_PATH)
        state_dict_saver.save({place: _WEIGHT}, storage_writer=FileSystemWriter(folder))
    return tmp_path / "last.ckpt", _named(folder)


def _named(folder: Path) -> dict[str, Any]:
    described = {"path": _PATH, "shape": [4, 3], "dtype": "float32"}
    return {
        "state_dict": {},
        "shards": {
            "tensors": {".".join(_PATH): described},
            "folder": folder.name,
            "files": {file.name: sum_of(file) for file in folder.iterdir()},
        },
    }


def test_whole_parts_are_read(saved: tuple[Path, dict[str, Any]]) -> None:
    path, checkpoint = saved
    check_files(path, checkpoint)
    assert torch.equal(load_tensors(path, checkpoint)["state_dict"]["model.weight"], _WEIGHT)


def _in_files(path: Path, checkpoint: dict[str, Any]) -> None:
    """Saves it as the last and as the best, both of the same parts."""
    rest = {
        "packformer": {"version": "0"},
        "global_step": 4,
        "loops": {},
        "PackedDataModule": {"stream": {}},
    }
    for file in (path, path.with_name("best.ckpt")):
        AtomicCheckpointIO().save_checkpoint({**checkpoint, **rest}, file)


@pytest.mark.parametrize("damage", ["a part is cut", "a part is gone", "a bit", "the table"])
@pytest.mark.parametrize("read", [read_weights, AtomicCheckpointIO().load_checkpoint])
def test_a_checkpoint_of_the_same_damaged_parts_is_not_recommended(
    saved: tuple[Path, dict[str, Any]], read: Callable[[Path], object], damage: str
) -> None:
    path, checkpoint = saved
    folder = path.parent / "shards" / "4-ab"
    part, table = folder / "__0_0.distcp", folder / ".metadata"
    if damage == "the table":  # as it was saved, but not what the loader can read
        table.write_bytes(pickle.dumps({}))
        checkpoint = _named(folder)
    _in_files(path, checkpoint)
    if damage == "a part is cut":
        os.truncate(part, part.stat().st_size - 1)
    elif damage == "a part is gone":
        part.unlink()
    elif damage == "a bit":
        part.write_bytes(part.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match=f"{path} is not whole") as told:
        read(path)
    assert "best.ckpt" not in str(told.value)


def test_a_checkpoint_of_other_parts_is_recommended_if_they_are_whole(
    saved: tuple[Path, dict[str, Any]],
) -> None:
    path, checkpoint = saved
    _in_files(path, checkpoint)
    best, folder = path.with_name("best.ckpt"), path.parent / "shards" / "4-ab"
    other = shutil.copytree(folder, folder.with_name("2-cd"))
    named = torch.load(best, weights_only=True)
    named["shards"]["folder"] = other.name
    AtomicCheckpointIO().save_checkpoint(named, best)
    os.truncate(folder / "__0_0.distcp", 1)
    with pytest.raises(ValueError, match=f"1 bytes of .*; {best} is whole: resume={best}$"):
        read_weights(path)
    os.truncate(other / "__0_0.distcp", 1)
    with pytest.raises(ValueError, match=f"{path} is not whole, .*: 1 bytes of [0-9,]+$"):
        read_weights(path)


class _Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


def test_a_table_that_would_run_something_is_refused(
    saved: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = saved
    monkeypatch.chdir(path.parent)
    folder = path.parent / "shards" / "4-ab"
    (folder / ".metadata").write_bytes(pickle.dumps(_Payload()))
    with pytest.raises(ValueError, match=r"names posix.mkdir, and was not run"):
        load_tensors(path, _named(folder))
    assert not (path.parent / "ran").exists()


def test_a_table_names_files_of_the_checkpoint_alone(saved: tuple[Path, dict[str, Any]]) -> None:
    path, _ = saved
    folder = path.parent / "shards" / "4-ab"
    table = pickle.loads((folder / ".metadata").read_bytes())
    (folder / "__0_0.distcp").rename(path.parent / "outside")
    (folder / "__0_0.distcp").symlink_to(path.parent / "outside")
    with pytest.raises(ValueError, match=r"is a link out of its folder"):
        check_files(path, _named(folder))
    for place in table.storage_data.values():
        place.relative_path = "../../outside"
    (folder / ".metadata").write_bytes(pickle.dumps(table))
    with pytest.raises(ValueError, match=r"names a file '../../outside' of no part"):
        load_tensors(path, _named(folder))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"folder": "../../x"}, r"its folder \('../../x'\) must be a plain name"),
        ({"folder": "/etc"}, "must be a plain name"),
        ({"files": {"../x": [1, 1]}}, r"a file \('../x'\) must have the name of a part"),
        ({"files": {"__0_0.distcp": [-1, 1]}}, "must have a size and a checksum"),
        ({"files": 3}, "does not say which files"),
        ({"tensors": {"a": {"path": _PATH, "shape": [10**9], "dtype": "float32"}}}, "larger than"),
        ({"tensors": {"a": {"path": _PATH, "shape": [1], "dtype": "os"}}}, "description of a"),
        ({"tensors": {"a": {"path": 3, "shape": [1], "dtype": "float32"}}}, "description of a"),
    ],
)
def test_what_a_checkpoint_says_of_its_parts_is_checked(
    saved: tuple[Path, dict[str, Any]], changes: dict[str, Any], reason: str
) -> None:
    path, checkpoint = saved
    checkpoint["shards"] |= changes
    with pytest.raises(ValueError, match=f"checkpoint {path} is damaged: .*{reason}"):
        check_files(path, checkpoint)
