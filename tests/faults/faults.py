"""Faults at each operation that changes files: a kill before it or while it writes, or a full disk.

``operations`` lists what a piece of work does to files, and ``end_of`` repeats it in a process of
its own, in which one of these operations goes wrong. Whoever uses it looks at what is left then.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn

_CHANGES = {  # events of Python's audit hooks, and where among their arguments paths are
    "open": (0,),
    "os.rename": (0, 1),
    "os.remove": (0,),
    "os.mkdir": (0,),
    "os.rmdir": (0,),
    "os.link": (0, 1),
    "os.symlink": (1,),
    "os.truncate": (0,),
}
_SYNC = "os.fsync"
_FAILED = 3  # code of a process whose work raised an error that nobody planned


class Fault(Enum):
    """What happens at an operation."""

    KILL = "killed before:"
    KILL_IN_WRITE = "killed while it writes:"
    FULL_DISK = "no room left:"


@dataclass(frozen=True)
class Operation:
    """One change of files, in the order in which they come.

    Attributes:
        number: from 0.
        event: its name.
        files: names of the files.
    """

    number: int
    event: str
    files: tuple[str, ...]

    def faults(self) -> Sequence[Fault]:
        """Those that can happen here: only a file that was opened is written to."""
        return tuple(Fault) if self.event == "open" else (Fault.KILL,)

    def __str__(self) -> str:
        return f"{self.event} {' '.join(self.files)}"


class _Hook:
    """Calls ``at`` before each operation below ``folder``. It stays until the process ends."""

    def __init__(self, folder: Path, at: Callable[[Operation, Path], None]) -> None:
        self._folder, self._at = folder.resolve(), at
        self._count = 0
        sys.addaudithook(self._heard)
        sync = os.fsync

        def heard_sync(handle: int) -> None:
            self._happens(_SYNC, [Path(os.readlink(f"/proc/self/fd/{handle}"))])
            sync(handle)

        os.fsync = heard_sync

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _CHANGES or (event == "open" and not _is_written(*arguments[1:3])):
            return
        given = [arguments[place] for place in _CHANGES[event]]
        if all(isinstance(path, str | os.PathLike) for path in given):
            self._happens(event, [Path(path).absolute() for path in given])

    def _happens(self, event: str, paths: Sequence[Path]) -> None:
        below = [path for path in paths if path.is_relative_to(self._folder)]
        if below:
            # Names of unfinished files end in the id of the process.
            names = tuple(path.name.removesuffix(f".{os.getpid()}") for path in paths)
            operation = Operation(self._count, event, names)
            self._count += 1
            self._at(operation, below[-1])


def _is_written(mode: str | None, flags: int | None) -> bool:
    if flags:
        return bool(flags & (os.O_WRONLY | os.O_RDWR))
    return mode is not None and any(letter in mode for letter in "wax+")


def operations(work: Callable[[], object], folder: Path) -> list[Operation]:
    """What ``work`` does to files below ``folder``. It does it, in a process of its own.

    Raises:
        AssertionError: if ``work`` raises an error.
    """
    found: list[Operation] = []
    reader, writer = os.pipe()

    def tell(operation: Operation, path: Path) -> None:
        os.write(writer, f"{operation.event} {'/'.join(operation.files)}\n".encode())

    child = os.fork()
    if child == 0:
        os.close(reader)
        _work(work, folder, tell)
    os.close(writer)
    with os.fdopen(reader) as lines:
        for number, line in enumerate(lines):
            event, _, names = line.strip().partition(" ")
            found.append(Operation(number, event, tuple(names.split("/"))))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "the work failed by itself"
    return found


def end_of(
    work: Callable[[], object],
    folder: Path,
    operation: Operation,
    fault: Fault,
    room: int = 0,
) -> int:
    """Does ``work`` in a process in which ``fault`` happens at ``operation``.

    Args:
        work: the same that the operation was listed of, from the same state of the folder. An
            ``OSError`` that it raises counts as planned.
        folder: below which operations count.
        operation: one of ``operations``.
        fault: one that can happen there.
        room: bytes that can still be written to the file.

    Returns:
        0 if the work was completed, 1 if it raised an ``OSError``, or the negative signal.

    Raises:
        AssertionError: if it raised another error.
    """

    def strike(found: Operation, path: Path) -> None:
        if found.number != operation.number:
            return
        if fault is Fault.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        # From now on no file of the process may grow beyond what this one may.
        planned = signal.SIG_DFL if fault is Fault.KILL_IN_WRITE else signal.SIG_IGN
        signal.signal(signal.SIGXFSZ, planned)
        size = path.stat().st_size if path.exists() else 0
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, resource.RLIM_INFINITY))

    child = os.fork()
    if child == 0:
        _work(work, folder, strike)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code != _FAILED, f"{fault.value} {operation}: the work raised what is printed above"
    return code


def _work(
    work: Callable[[], object], folder: Path, at: Callable[[Operation, Path], None]
) -> NoReturn:
    """The whole of a forked process."""
    code = _FAILED
    try:
        _Hook(folder, at)
        work()
        code = 0
    except OSError:
        code = 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def each(
    listed: Sequence[Operation], *, every: int = 1, offset: int = 0
) -> Iterator[tuple[Operation, Fault]]:
    """Every fault of every operation, or one in ``every`` of these, from the ``offset``-th on."""
    pairs = [(operation, fault) for operation in listed for fault in operation.faults()]
    yield from pairs[offset % every :: every]
