"""Checkpoints that are complete or absent, and readable errors for damaged ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor, nn

from packformer.training.archive import check_archive, seal
from packformer.training.checkpoint_form import check_form, check_parts
from packformer.training.former import FormerCheckpoints
from packformer.training.shards import (
    PARTS,
    check_files,
    check_sums,
    is_sharded,
    load_tensors,
    shapes,
)
from packformer.whole_file import cannot_write, replacing

_Entry = TypeVar("_Entry")
_OTHER = "with other settings"
_NO_FILE = "it is no file"  # reading a pipe or a device may never end
_FORMER = {"policy": "best_fit"}  # what former checkpoints do not tell of their rows


class OtherTraining(ValueError):
    """A complete checkpoint of a training with another model, settings or rows."""


class OtherData(OtherTraining):
    """A complete checkpoint of a training on other documents."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Replaces the target in one step: a kill leaves the old file.

    Reads checkpoints in shards too, whole.
    """

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: FormerCheckpoints | None = None,
    ) -> None:
        """Writes it whole or not at all.

        Args:
            checkpoint: Lightning's.
            path: to write to.
            storage_options: what keeps the checkpoints that were there before; None for nothing.

        Raises:
            OSError: if it cannot be written, naming the file and the room there is.
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with replacing(target) as unfinished:
                with unfinished.open("wb") as file:
                    torch.save(checkpoint, file)
                seal(unfinished)
                if storage_options is not None:
                    storage_options.keep_last()
        except RuntimeError as error:  # in which torch hides a full disk
            raise cannot_write(target, error, _num_bytes(checkpoint)) from error
        if storage_options is not None:
            storage_options.read_back()

    def load_checkpoint(self, path: Any, *arguments: Any, **keywords: Any) -> dict[str, Any]:
        checkpoint = super().load_checkpoint(path, *arguments, **keywords)
        if is_sharded(checkpoint):
            with naming_the_other(Path(path)):
                check_sums(Path(path), checkpoint)
                checkpoint = load_tensors(Path(path), checkpoint)
        return checkpoint


def check_checkpoint(
    path: Path,
    model: nn.Module,
    stream: dict[str, Any],
    identity: dict[str, Any],
    *,
    in_its_words: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> int:
    """Reads a checkpoint to check that this training can continue from it.

    Of one in shards the parts are read later, when they are loaded.

    Args:
        path: of the checkpoint.
        model: what it must hold the weights of.
        stream: of rows, which its packer's state must belong to.
        identity: settings it must have been made with.
        in_its_words: writes the settings of the checkpoint as ``identity`` has them, where both
            mean the same.

    Returns:
        The optimizer step it was saved at.

    Raises:
        ValueError: if it is missing, truncated or damaged, or not packformer's.
        OtherData: if its packer's state belongs to other documents.
        OtherTraining: if it is of another model or of other settings, or if that state belongs to
            another stream.
    """
    checkpoint = _read(path)
    step = int(checkpoint["global_step"])
    if is_sharded(checkpoint):
        with naming_the_other(path):
            check_files(path, checkpoint)
    rows = checkpoint["PackedDataModule"]["stream"]
    settings = in_its_words(checkpoint["packformer"]) | _FORMER | rows
    if "data" in stream and settings.get("data") != stream["data"]:
        raise OtherData(
            f"checkpoint {path} was trained on other data: the text has changed since, or is "
            "another one"
        )
    saved = _of_model(shapes(checkpoint))
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name in sorted(saved.keys() | wanted.keys()):
        if saved.get(name) != wanted.get(name):
            raise OtherTraining(
                f"checkpoint {path} is of another model: {name} has shape {saved.get(name)} "
                f"there and {wanted.get(name)} here"
            )
    for name, value in {**identity, **stream}.items():
        if settings.get(name) != value:
            raise OtherTraining(
                f"checkpoint {path} was trained {'on other rows' if name in stream else _OTHER}: "
                f"{name} was {settings.get(name)} there and is {value} here; repeat the run's "
                "settings, or start a new run"
            )
    return step


def recorded_steps(path: Path) -> tuple[int, int]:
    """The optimizer step a checkpoint was saved at, and that of the last validation it knows of."""
    checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    step = int(checkpoint["global_step"])
    records = checkpoint.get("callbacks", {}).get("StepRecords", {})
    return step, int(records.get("validated_step", step))


def saved_stream(path: Path) -> dict[str, Any]:
    """The stream of rows that a checkpoint's place in the data belongs to.

    Raises:
        ValueError: if it is missing, truncated or damaged, or not packformer's.
    """
    return _read(path)["PackedDataModule"]["stream"]


def read_weights(path: Path) -> dict[str, Tensor]:
    """The model's parameters and buffers, by their names in the model, on the CPU.

    Args:
        path: of the checkpoint.

    Raises:
        ValueError: if it is missing, truncated or damaged, or not packformer's.
    """
    checkpoint = _read(path)
    if is_sharded(checkpoint):
        with naming_the_other(path):
            check_sums(path, checkpoint)
            checkpoint = load_tensors(path, checkpoint, only="state_dict")
    return _of_model(checkpoint["state_dict"])


def weight_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the model's parameters and buffers; arguments and errors as of ``read_weights``."""
    return _of_model(shapes(_read(path)))


def _read(path: Path) -> dict[str, Any]:
    """A whole checkpoint; its tensors are mapped into memory."""
    if not path.is_file():
        raise ValueError(f"checkpoint {path} does not exist")
    checkpoint: Any = None
    if (reason := _why_no_archive(path, _state(path))) is None:
        checkpoint, reason = _loaded(path)
    if reason is not None:
        raise ValueError(
            f"checkpoint {path} is truncated, damaged or no checkpoint ({reason}){_beside(path)}"
        )
    if not isinstance(checkpoint, dict) or "packformer" not in checkpoint:
        raise ValueError(
            f"checkpoint {path} was not written by packformer: give one of a "
            "run folder of packformer, or a folder of transformers"
        )
    return checkpoint


def why_damaged(path: Path) -> str | None:
    """What is wrong with a checkpoint, all of which is read; None if it is as it was written."""
    if not path.is_file():
        return _NO_FILE
    if (reason := _why_no_archive(path, _state(path))) is not None:
        return reason
    checkpoint, reason = _loaded(path)
    if reason is None and isinstance(checkpoint, dict) and is_sharded(checkpoint):
        try:
            check_sums(path, checkpoint)
        except (ValueError, OSError) as error:
            return str(error)
    return reason


def resumable_step(path: Path) -> int | None:
    """The optimizer step that a checkpoint was saved at; None if it holds no more than weights.

    Raises:
        ValueError: if it cannot be read.
    """
    checkpoint, reason = _loaded(path)
    if reason is not None:
        raise ValueError(reason)
    if not isinstance(checkpoint, dict) or not {"packformer", "loops"} <= checkpoint.keys():
        return None
    return int(checkpoint["global_step"])


def _state(path: Path) -> tuple[int, int, int]:
    """What changes when a file is replaced or written to."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


@lru_cache(maxsize=16)  # a start looks at the same file more than once
def _why_no_archive(path: Path, state: tuple[int, int, int]) -> str | None:
    try:
        check_archive(path)
    except Exception as error:  # a damaged file can make the reader raise anything
        return _in_short(error)
    return None


def _loaded(path: Path) -> tuple[Any, str | None]:
    """A checkpoint, its tensors mapped into memory, and why it cannot be read."""
    if not path.is_file():
        return None, _NO_FILE
    try:
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        if isinstance(checkpoint, dict) and "packformer" in checkpoint:
            check_form(checkpoint)
            if is_sharded(checkpoint):
                check_parts(checkpoint[PARTS])
        return checkpoint, None
    except Exception as error:  # a damaged file can make the unpickler raise anything
        return None, _in_short(error)


def _in_short(error: Exception) -> str:
    return " ".join(str(error).split(".")[0].split()) or type(error).__name__


def _num_bytes(node: Any) -> int:
    """Of the tensors in a checkpoint."""
    if isinstance(node, Tensor):
        return node.numel() * node.element_size()
    if isinstance(node, Mapping):
        return sum(map(_num_bytes, node.values()))
    return sum(map(_num_bytes, node)) if isinstance(node, list | tuple) else 0


@contextmanager
def naming_the_other(damaged: Path) -> Iterator[None]:
    """Adds to an error of the body which other checkpoint of the run can be opened, if one can.

    Args:
        damaged: that the body reads.
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{error}{_beside(damaged)}") from error


def _beside(damaged: Path) -> str:
    """The other checkpoint of the run, if it can be opened, as advice. All of it is read."""
    best, last = damaged.with_name("best.ckpt"), damaged.with_name("last.ckpt")
    other = last if damaged == best else best
    shards = _shards_of(damaged)
    if shards is not None and shards == _shards_of(other):
        return ""
    if why_damaged(other) is not None or resumable_step(other) is None:
        return ""
    return f"; {other} is whole: {'give that' if other == last else f'resume={other}'}"


def _shards_of(path: Path) -> str | None:
    """Name of the folder with a checkpoint's parts; None if it is a single file, or damaged."""
    checkpoint, _ = _loaded(path)
    if not isinstance(checkpoint, dict) or not is_sharded(checkpoint):
        return None
    return str(checkpoint[PARTS]["folder"])


def _of_model(entries: Mapping[str, _Entry]) -> dict[str, _Entry]:
    """Without those of the metrics, which are saved beside them."""
    return {
        name.removeprefix("model."): entry
        for name, entry in entries.items()
        if name.startswith("model.")
    }
