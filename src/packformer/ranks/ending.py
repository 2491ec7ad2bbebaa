"""How the processes of one run end together: one of them tells why, the others are silent.

Rank 0 may have been started alone and start the others (``starting``); or torchrun, SLURM or
MPI start all of them.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from packformer.interruption import exit_code, interrupt, signals_heard_by
from packformer.masking import masked
from packformer.ranks.launched import ERRORS, OF_COMMAND, PARENT, SWEEP, launched, rank
from packformer.whole_file import replace_text

_WATCHED_EVERY = 0.3  # seconds
_UNTIL_ENDED = 6.0  # seconds that a rank leaves to the one that knows why, and to a launcher
_TORCHRUNS = "TORCHELASTIC_ERROR_FILE"
_LOST_CONNECTION = re.compile(
    r"gloo|Connection (closed|reset) by peer|NCCL|Broken pipe|Socket Timeout|failed to recv"
)
_LOST_BY_NAME = ("DistBackendError", "DistNetworkError", "DistStoreError")
_AFTER_A_KILL = (
    ": if the machine ran out of memory, lower loader.num_workers or the number of devices; what "
    "was saved is whole"
)
_telling = threading.Lock()
_lost = threading.Event()
_failed = threading.Event()
_shown = 2  # the file descriptor of what a user sees


@contextmanager
def ends_when_interrupted() -> Iterator[None]:
    """Ends the process in one line when a signal asks for it during the body."""
    try:
        with signals_heard_by(interrupt):
            yield
    except KeyboardInterrupt as interruption:
        if _failed.is_set():
            sys.exit(1)
        if rank() == 0:
            print("interrupted", file=sys.stderr)
        sys.exit(exit_code(interruption))


def end_as_failed() -> None:
    """Ends the body of ``ends_when_interrupted`` from another thread, which has told why.

    The main thread stops what it has started, as after a signal.
    """
    _failed.set()
    os.kill(os.getpid(), signal.SIGTERM)


def is_several() -> bool:
    """Whether this process is one of several that train together."""
    found = launched()
    return ERRORS in os.environ or (found is not None and found.processes > 1)


def end_at_once(code: int) -> None:
    """Ends the process with ``code`` after a signal that the main thread does not hear."""
    if not begin_to_tell():  # an error, after which it ends
        return
    if rank() == 0:
        show("interrupted\n")
        if folder := os.environ.get(ERRORS):  # without which the others end in silence
            shutil.rmtree(folder, ignore_errors=True)
    os._exit(code)


def quiet_other_ranks() -> None:
    """Silences this process unless it is rank 0: errors are told by ``tell``. Call it first.

    What a rank prints that rank 0 started is kept in a file, which rank 0 shows if that rank dies
    without a word.
    """
    if rank() == 0 or "PACKFORMER_FULL_ERROR" in os.environ:
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    if folder := os.environ.get(ERRORS):
        global _shown
        if _shown == 2:
            _shown = os.dup(2)
        with (Path(folder) / f"{rank()}.log").open("ab") as log:
            for number in (1, 2):
                os.dup2(log.fileno(), number)
    else:
        sys.stdout = io.StringIO()  # what a few callbacks may print


def end_with_parent() -> None:
    """Ends this process within a second when what started it is gone.

    Otherwise a rank whose rank 0 or torchrun was killed would wait for it in a collective, and
    the sweep of a killed study would train to its end, unseen.
    """
    of_rank_zero = ERRORS in os.environ and rank() != 0
    if of_rank_zero or SWEEP in os.environ or OF_COMMAND in os.environ:
        parent = int(os.environ.get(PARENT, os.getppid()))  # which may be gone already
    elif _TORCHRUNS in os.environ:
        parent = os.getppid()
    else:
        return
    _watch(parent, of_rank_zero)


@cache
def _watch(parent: int, of_rank_zero: bool) -> None:
    """Starts the thread, once: jobs of a sweep may follow one another in this process."""
    threading.Thread(target=_watch_parent, args=(parent, of_rank_zero), daemon=True).start()


def _watch_parent(parent: int, of_rank_zero: bool) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCHED_EVERY)
    folder = Path(os.environ.get(ERRORS, ""))
    if of_rank_zero and folder.is_dir() and _first_to(folder / "0.told"):
        show(f"error: rank 0 was killed{_AFTER_A_KILL}\n")
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def death(number: int, code: int) -> str:
    """What to say of a rank that ended without a word.

    Args:
        number: the rank.
        code: its return code; negative if a signal ended it.
    """
    if code >= 0:
        return f"rank {number} ended with code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    if name != "SIGKILL":
        return f"rank {number} died ({name})"
    return f"rank {number} was killed (SIGKILL){_AFTER_A_KILL}"


def tell(error: BaseException, message: str, traceback: str = "") -> None:
    """Prints why the run ends, unless another rank does.

    Args:
        error: that ends this process.
        message: of it, on one line.
        traceback: shown before the message; empty for errors of the user's.
    """
    message, traceback = masked(message), masked(traceback)
    if not is_several():
        show(f"{traceback}error: {message}\n")
        return
    number = rank()
    if is_lost_connection(error):
        _lost.set()
        _wait_for_end()  # the rank that failed tells why, and all are ended
        traceback = ""
        message = f"the connection to another rank is lost ({message})"
    elif number and not _trains() and not os.environ.get(ERRORS):
        _wait_for_end()  # rank 0 found the same
    if not begin_to_tell():
        _wait_for_end()
        return
    if not _is_first(number):
        if number or not os.environ.get(ERRORS):
            _wait_for_end()
        else:
            _show_left()
        return
    told = f"rank {number}: {message}" if number else message
    _leave(number, told, traceback)
    if not (number and os.environ.get(ERRORS)):  # rank 0 shows what others leave
        show(f"{traceback}error: {told}\n")


def _wait_for_end() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # of a launcher; nothing is left to save
    time.sleep(_UNTIL_ENDED)


def _show_left() -> None:
    """Shows what another rank leaves to rank 0, which it does before it ends."""
    limit = time.monotonic() + _UNTIL_ENDED
    folder = Path(os.environ[ERRORS])
    while time.monotonic() < limit:
        for left in sorted(folder.glob("*.error")):
            show(left.read_text(encoding="utf-8"))
            return
        time.sleep(_WATCHED_EVERY)


def is_lost_connection(error: BaseException) -> bool:
    """Whether ``error``, or what it was raised from, only says that another rank is gone."""
    if type(error).__name__ in _LOST_BY_NAME:
        return True
    if isinstance(error, RuntimeError) and _LOST_CONNECTION.search(str(error)):
        return True
    return error.__cause__ is not None and is_lost_connection(error.__cause__)


def _trains() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and torch.distributed.is_initialized()


def _is_first(number: int) -> bool:
    """Whether no other rank has told an error yet."""
    if not _trains():
        return True
    from torch.distributed import distributed_c10d

    try:
        return distributed_c10d._get_default_store().add("packformer/errors", 1) == 1
    except RuntimeError:  # what keeps the store is gone, and has told
        return number == 0


def _leave(number: int, told: str, traceback: str) -> None:
    """Leaves the error to rank 0, or to torchrun for its table."""
    if folder := os.environ.get(ERRORS):
        with suppress(OSError):
            _first_to(Path(folder) / f"{number}.told")
            replace_text(Path(folder) / f"{number}.error", f"{traceback}error: {told}\n")
    if file := os.environ.get(_TORCHRUNS):
        with suppress(OSError):
            Path(file).write_text(
                json.dumps(
                    {
                        "message": {
                            "message": told,
                            "extraInfo": {"timestamp": str(int(time.time()))},
                        }
                    }
                )
            )


def _first_to(file: Path) -> bool:
    """Whether this call made ``file``."""
    try:
        file.touch(exist_ok=False)
    except OSError:
        return False
    return True


def begin_to_tell() -> bool:
    """Whether nothing in this process tells an error yet."""
    return _telling.acquire(blocking=False)


def has_lost_connection() -> bool:
    """Whether this process has an error that only says that another rank is gone."""
    return _lost.is_set()


def has_told() -> bool:
    """Whether this process told an error."""
    return _telling.locked()


def show(text: str) -> None:
    """Prints ``text`` where the user sees it, even from a silenced rank."""
    sys.stdout.flush()
    sys.stderr.flush()
    if _shown == 2:
        print(text, end="", file=sys.stderr, flush=True)
    else:
        os.write(_shown, text.encode(errors="replace"))


def own_folder() -> bool:
    """Whether Hydra's folder is this rank's run folder: others learn it from rank 0."""
    return rank() == 0 or ERRORS in os.environ
