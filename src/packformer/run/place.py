"""Where a run continues and the folder it writes to: the same for all ranks, and its alone."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from filelock import BaseFileLock
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from packformer.ranks.agreement import from_rank_zero
from packformer.ranks.launched import ERRORS, rank
from packformer.run.lock import lock_choice, lock_run, release_new
from packformer.run.newest import newest_whole
from packformer.run.of_sweep import in_sweep
from packformer.run.resume import (
    SUMMARY_FILE,
    checkpoints_in,
    find_checkpoint,
    name_of_configuration,
    run_folder,
)
from packformer.run.shown_override import shown_override

_DECIDED = "PACKFORMER_PLACE"  # by rank 0, for the ranks that it starts


class Place(NamedTuple):
    """Where a run goes on.

    Attributes:
        checkpoint: that it continues from; None for a new run.
        folder: of the run.
    """

    checkpoint: Path | None
    folder: Path


class Claim:
    """The folder of a run, which no other process writes to until the end of the ``with``.

    Rank 0 locks it before it chooses a checkpoint there or writes anything. What ``resume=auto``
    finds depends on what others have begun. So one process at a time chooses for a configuration,
    until its folder tells of the run.
    """

    def __init__(self) -> None:
        self._choice: BaseFileLock | None = None
        self._run: BaseFileLock | None = None

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *error: object) -> None:
        self.is_recorded()
        self._leave()

    def take(self, config: DictConfig, plain: dict[str, Any]) -> Place:
        """Decides where the run goes on, and locks its folder; the same in all ranks.

        Args:
            config: as composed.
            plain: the same, resolved, as plain types.

        Raises:
            ValueError: if another process has it, if it holds another run, or if no checkpoint of
                the run that is to continue is whole.
        """
        if rank() and ERRORS in os.environ:
            told = os.environ[_DECIDED]
        else:
            told = from_rank_zero("place", lambda: _as_text(self._decide(config, plain)))
            os.environ[_DECIDED] = told
        checkpoint, folder = json.loads(told)
        return Place(None if checkpoint is None else Path(checkpoint), Path(folder))

    def start_anew(self) -> Path:
        """Leaves the folder for Hydra's new one, which it returns; called in all ranks."""
        if rank() and ERRORS in os.environ:
            return Path(HydraConfig.get().runtime.output_dir)
        return Path(from_rank_zero("new folder", self._change_to_new))

    def _change_to_new(self) -> str:
        self._leave()
        folder = _folder(None)
        self._run = lock_run(folder)
        return str(folder)

    def is_recorded(self) -> None:
        """The folder tells of the run by now: others may choose."""
        if self._choice is not None:
            release_new(self._choice)
            self._choice = None

    def _decide(self, config: DictConfig, plain: dict[str, Any]) -> Place:
        resume, output_dir = str(config.resume), Path(str(config.output_dir))
        if resume == "auto":
            self._choice = lock_choice(output_dir, name_of_configuration(plain))
        checkpoint = find_checkpoint(resume, output_dir, plain)
        folder = _folder(checkpoint)
        self._run = lock_run(folder)
        if checkpoint is None:
            if not in_sweep():  # which looks at the folders of its jobs beforehand
                _refuse_overwriting(folder)
            return Place(None, folder)
        if resume == "auto" or Path(resume).expanduser().is_dir():
            checkpoint = newest_whole(folder)
        return Place(checkpoint, folder)

    def _leave(self) -> None:
        """Releases the folder; where nothing was written, nothing stays."""
        if self._run is None:
            return
        file = Path(self._run.lock_file)
        if [path.name for path in file.parent.iterdir()] == [file.name]:
            release_new(self._run)
        else:
            self._run.release()
        self._run = None


def _as_text(place: Place) -> str:
    checkpoint, folder = place
    return json.dumps([None if checkpoint is None else str(checkpoint), str(folder)])


def _folder(checkpoint: Path | None) -> Path:
    """The run's folder: Hydra's new one, or that of the run that ``checkpoint`` continues."""
    new = Path(HydraConfig.get().runtime.output_dir)
    former = None if checkpoint is None else run_folder(checkpoint)
    if former is None or former == new.resolve():
        return new
    if not in_sweep():  # a sweep reads the job's numbers there
        with suppress(OSError):  # not empty, or another rank was faster
            new.rmdir()
    return former


def _refuse_overwriting(folder: Path) -> None:
    if (folder / SUMMARY_FILE).is_file() or checkpoints_in(folder):
        raise ValueError(
            f"hydra.run.dir ({folder}) holds a run, and nothing is overwritten: "
            f"{shown_override('resume', str(folder))} continues it; else give another folder"
        )
