"""Saves a sharded training while it continues."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed as dist
from torch.distributed.checkpoint import state_dict_saver
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.tensor import DTensor

from packformer.training.checkpoint import AtomicCheckpointIO
from packformer.training.former import FormerCheckpoints
from packformer.training.shards import (
    FOLDER,
    Files,
    remove_unused,
    sum_of,
    take_out,
    with_files,
)
from packformer.training.staging import KeptMemory
from packformer.whole_file import cannot_write, flush_folder


class _Parts(NamedTuple):
    """Tensors of a step that are being written, or are.

    Attributes:
        folder: that they lie in.
        step: of the optimizer.
        places: in the checkpoint, of all that are there.
        files: of all ranks, once they are written.
    """

    folder: Path
    step: int
    places: set[str]
    files: Future[Files]

    def hold(self, tensors: Mapping[str, Any], path: Path, step: int) -> bool:
        """Whether a checkpoint at ``path`` can name them as its own."""
        beside = self.folder.parent.parent == path.parent
        return beside and self.step == step and tensors.keys() <= self.places


class ShardedSaves:
    """Writes checkpoints in shards, one after the other, in a thread of its own on every rank.

    ``save`` returns once the tensors are copied to main memory. Rank 0 writes the checkpoint's file
    when the parts of all ranks are on the disk. Checkpoints of one step share their tensors.

    Args:
        group: of all ranks, with a backend for CPUs, for this class alone.
        on_gpu: whether tensors are copied from a GPU, into pinned memory that is kept.
    """

    def __init__(self, group: dist.ProcessGroup, *, on_gpu: bool) -> None:
        self._group = group
        self._rank = dist.get_rank(group)
        self._stager = KeptMemory(pinned=on_gpu)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: list[Future[Any]] = []
        self._latest: _Parts | None = None

    def reserve(self, checkpoint: dict[str, Any]) -> None:
        """Begins to allocate the memory that the first save would wait for.

        Args:
            checkpoint: as of ``save``, or a part of it.
        """
        _, tensors = take_out(checkpoint)
        self._stager.reserve(tensors)

    def save(
        self,
        checkpoint: dict[str, Any],
        path: Path,
        name: str,
        former: FormerCheckpoints | None = None,
    ) -> None:
        """Begins to save; waits for the save before, unless that is of the same step.

        Args:
            checkpoint: Lightning's, with sharded tensors.
            path: to write to, the same on all ranks.
            name: for the folder of a new step, the same on all ranks.
            former: keeps the checkpoints that were at ``path`` before; None for nothing.

        Raises:
            OSError: if an earlier save failed.
        """
        rest, tensors = take_out(checkpoint)
        step = int(checkpoint["global_step"])
        latest = self._latest
        if latest is None or not latest.hold(tensors, path, step):
            latest = self._latest = self._begin(tensors, path, step, name)
        self._pending.append(self._thread.submit(self._finish, rest, path, latest, former))

    def _begin(self, tensors: dict[str, DTensor], path: Path, step: int, name: str) -> _Parts:
        """Copies the tensors and has them written."""
        self.wait()
        folder = path.parent / FOLDER / name
        folder.mkdir(parents=True, exist_ok=True)
        started = state_dict_saver.async_save(
            dict(tensors),
            storage_writer=FileSystemWriter(folder),
            process_group=self._group,
            async_stager=self._stager,
        )
        written: Any = getattr(started, "upload_completion", started)
        files = self._thread.submit(self._files_of, written, path, folder)
        self._pending.append(files)
        return _Parts(folder, step, set(tensors), files)

    def remove(self, path: Path) -> None:
        """Removes a checkpoint once what was begun before is saved."""
        if self._rank == 0:
            self._pending.append(self._thread.submit(self._remove, path))

    def wait(self) -> None:
        """Until all that was begun is saved.

        Raises:
            OSError: if it could not be.
        """
        pending, self._pending = self._pending, []
        for future in pending:
            future.result()

    def _files_of(self, written: Future[Any], path: Path, folder: Path) -> Files:
        """Waits for the parts of all ranks; returns which files they are."""
        own: Files = {}
        try:
            written.result()
            for file in folder.iterdir():
                is_own = file.name.startswith(f"__{self._rank}_")
                if is_own or (self._rank == 0 and file.name == ".metadata"):
                    own[file.name] = sum_of(file)
            flush_folder(folder)
            failed = None
        except Exception as error:  # of any type, also of other ranks
            failed = " ".join(str(error).split("\n")[-1].split()) or type(error).__name__
        of_ranks: list[Any] = [None] * dist.get_world_size(self._group)
        try:
            dist.all_gather_object(of_ranks, (own, failed), group=self._group)
        except RuntimeError as error:
            raise OSError(f"cannot write {path}: another rank has ended") from error
        reasons = [reason for _, reason in of_ranks if reason is not None]
        if reasons:
            raise cannot_write(path, OSError(reasons[0]))
        return {name: sums for files, _ in of_ranks for name, sums in files.items()}

    def _finish(
        self,
        rest: dict[str, Any],
        path: Path,
        parts: _Parts,
        former: FormerCheckpoints | None,
    ) -> None:
        files = parts.files.result()  # raises if a rank has failed
        if self._rank == 0:
            name = parts.folder.name
            whole = with_files(rest, name, files)
            AtomicCheckpointIO().save_checkpoint(whole, path, former)
            remove_unused(path.parent, keep=[name])

    def _remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        remove_unused(path.parent)
