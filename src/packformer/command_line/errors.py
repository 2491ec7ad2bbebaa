"""Errors: one line for what a user can fix, a traceback for what only a developer can."""

from __future__ import annotations

import builtins
import re
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hydra.errors import HydraException, InstantiationException
from omegaconf.errors import OmegaConfBaseException
from yaml.error import MarkedYAMLError

from packformer.command_line.hints import explain
from packformer.command_line.references import explain_reference
from packformer.masking import masked
from packformer.path_kind import too_long
from packformer.ranks.launched import rank
from packformer.run.lock import RunningElsewhere, is_running
from packformer.run.resume import CONFIG_FILE
from packformer.run.user_errors import USER_ERRORS
from packformer.whole_file import replace_text

# By name: torch and Lightning are slow to import.
_OUT_OF_MEMORY = "OutOfMemoryError"
_LOST_PROCESS = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) "
    r"(?:is killed by signal: (.+?)\.|exited unexpectedly)"
)
_RAISED_IN_PROCESS = re.compile(r"Caught (\w+) in DataLoader worker process \d+\.\nOriginal Trace")
_NAMED_USER_ERRORS = (_OUT_OF_MEMORY, "MisconfigurationException")


def one_line(error: BaseException, overrides: Sequence[str] = ()) -> str:
    """The message of ``error``, on one line, without what Hydra wraps around it, and masked.

    Args:
        error: any.
        overrides: the command line's; with them a refusal of Hydra's says what may have been meant.
    """
    return masked(_on_one_line(error, overrides))


def _on_one_line(error: BaseException, overrides: Sequence[str]) -> str:
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    if type(error).__name__ == _OUT_OF_MEMORY:
        return (
            "the GPU's memory is full: set model.activation_checkpointing=selective (or full), or "
            "lower packing.row_length and raise trainer.rows_per_step instead "
            f"({_first_line(error)})"
        )
    if told := too_long(error, [_key_and_value(override) for override in overrides]):
        return told
    if isinstance(error, MarkedYAMLError) and (mark := error.problem_mark) is not None:
        return f"{mark.name}, line {mark.line + 1}, is no YAML: {error.problem}"
    message = _of_loader_process(str(error)).partition("Config search path:")[0]
    if "hydra/sweeper/optuna" in message:
        return "the Optuna sweeper is not installed: pip install '.[optuna]'"
    if isinstance(error, HydraException | ValueError) and (hint := explain(message, overrides)):
        return hint
    if isinstance(error, OmegaConfBaseException) and (hint := explain_reference(error, overrides)):
        return hint
    if isinstance(error, OmegaConfBaseException):
        message = message.splitlines()[0]
        if key := getattr(error, "full_key", None):
            message = f"{key}: {message}" if key not in message else message
    return " ".join(message.split()) or type(error).__name__


def is_user_error(error: BaseException) -> bool:
    """Whether the message is meant for the user; anything else is a bug and shows its traceback."""
    if isinstance(error, USER_ERRORS) or type(error).__name__ in _NAMED_USER_ERRORS:
        return True
    message = str(error)
    raised = _RAISED_IN_PROCESS.match(message)  # a RuntimeError where torch cannot make its kind
    kind = getattr(builtins, raised[1], object) if raised else object
    return issubclass(kind, USER_ERRORS) or bool(_LOST_PROCESS.match(message))


def _of_loader_process(message: str) -> str:
    """Rewords what torch's loader says about its processes; leaves other messages as they are."""
    if lost := _LOST_PROCESS.match(message):
        signal = f" ({lost[2]})" if lost[2] else ""
        return (
            f"a loader process (pid {lost[1]}) died{signal}: if the machine ran out of memory, "
            "lower loader.num_workers; what was saved is whole"
        )
    if raised := _RAISED_IN_PROCESS.match(message):
        return message.rpartition(f"{raised[1]}: ")[2]
    return message


def _key_and_value(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key.lstrip("+"), value


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")


def records_of(folder: Path) -> int | None:
    """When the records of a run in ``folder`` were written, in ns; None if it holds none."""
    file = folder / CONFIG_FILE
    return file.stat().st_mtime_ns if file.is_file() else None


def keep_traceback(
    error: BaseException, folder: Path, former: int | None, *, in_sweep: bool
) -> Path | None:
    """Writes the traceback to the run's folder; returns its place.

    A run that failed before it wrote anything leaves no folder (None), except in a sweep, whose
    table lists it. In the folder of another run it writes nothing, nor where another process has
    begun one meanwhile.

    Args:
        error: that ended the run.
        folder: of the run.
        former: ``records_of`` the folder before the run began.
        in_sweep: whether the run is a job of one.
    """
    if not folder.is_dir() or _is_of_another(error, folder):
        return None
    if former is not None and former == records_of(folder) and not in_sweep:
        return None
    if not any(folder.iterdir()) and not in_sweep:
        folder.rmdir()
        if re.match(r"\d{4}-\d\d-\d\d_", folder.parent.name):  # of a name with a slash
            with suppress(OSError):
                folder.parent.rmdir()
        return None
    place = folder / "error.txt"
    try:
        replace_text(place, masked("".join(traceback.format_exception(error))))
    except OSError:  # the disk may be full: that is what the error is about
        return None
    return place


def _is_of_another(error: BaseException, folder: Path) -> bool:
    """Whether another process runs in ``folder``, or did so when this one was refused it."""
    if isinstance(error, RunningElsewhere) and error.folder.resolve() == folder.resolve():
        return True
    if rank() != 0:  # rank 0 has the folder for all
        return False
    try:
        return is_running(folder)
    except (OSError, ValueError):  # its lock is none, or cannot be opened
        return False
