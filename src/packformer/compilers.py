"""Processes that compile a kernel's programs and prove it, before training needs it.

They start with the command, so that they import torch while the command does, and wait to be told
which calls a run will need. This module imports no torch.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple

from packformer.cache import cache_folder, is_cache_writable
from packformer.interruption import SIGNALS
from packformer.ranks.others import num_cards

log = logging.getLogger(__name__)

KERNELS = {"flash4": "flash_attn"}
"""Those that keep their programs on disk, and the package that each needs."""

_CODE = (
    "import sys; sys.path[:] = {path!r}; "
    "from packformer.attention.proof.compiling import main; main()"
)
_LONGEST_WAIT = 120.0  # seconds
_FEWEST_CORES = 4  # with fewer, the process that trains compiles as fast by itself
_MOST_AHEAD = 6  # calls that a model with layers of one kind needs


class _Compiler(NamedTuple):
    process: subprocess.Popen[bytes]
    told: IO[bytes]

    def tell(self, task: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        with suppress(OSError):  # it has ended already: its exit code and last words are read
            self.process.stdin.write(json.dumps(task).encode())
            self.process.stdin.close()


class Compilers:
    """Processes that compile. Their work stays on disk; what fails there fails again, and is told,
    where the programs are needed.
    """

    def __init__(self) -> None:
        self._waiting: list[_Compiler] = []
        self._working: list[_Compiler] = []
        self._prover: _Prover | None = None
        self._proved: set[tuple[str, str]] = set()

    def begin(self) -> None:
        """Starts processes that import what compiles."""
        with suppress(OSError):  # no process can be started: the run compiles by itself
            if number := min(_MOST_AHEAD, _at_once()):
                self._prover = _Prover()
                for _ in range(number):
                    self._waiting.append(self._prover.started_before())

    @property
    def have_begun(self) -> bool:
        """Whether any wait to be given something."""
        return bool(self._waiting)

    def give(
        self,
        kernel: str,
        device_type: str,
        calls: Sequence[tuple[str, bool]],
        proofs: Mapping[str, str],
    ) -> None:
        """Has them compile, each call in a process of its own if there are cores for it. When all
        have ended, another proves the kernel.

        Does nothing where the cache cannot be written: their work would be lost.

        Args:
            kernel: its name.
            device_type: ``"cpu"`` or ``"cuda"``.
            calls: JSON of a ``Case``, and whether algorithms are deterministic.
            proofs: JSON of a ``Case`` of each variant to prove, by the variant's name.
        """
        at_once = min(len(calls), _at_once())
        if not at_once or not is_cache_writable():
            return
        log.info("compile  %s, before it is proved", kernel)
        task: dict[str, Any] = {"kernel": kernel, "device_type": device_type}
        with suppress(OSError):  # no process can be started: the run does the rest by itself
            if self._prover is None:
                self._prover = _Prover()
            for first in range(at_once):
                compiler = self._waiting.pop() if self._waiting else self._prover.started_before()
                self._working.append(compiler)
                compiler.tell({**task, "calls": calls[first::at_once]})
            prover, self._prover = self._prover, None
            self._working.append(prover.told({**task, "proofs": list(proofs.values())}))
            self._proved |= {(kernel, variant) for variant in proofs}

    def prove(self, kernel: str, variant: str) -> bool:
        """Whether they were given this proof; ``wait`` returns when it is made, or failed."""
        return (kernel, variant) in self._proved

    def dismiss(self) -> None:
        """Ends those that were given nothing."""
        _end(self._waiting)
        if self._prover is not None:
            _end([self._prover.dismissed()])
            self._prover = None

    def wait(self) -> None:
        """Returns when all that were given something have ended, or after two minutes; warns of
        what went wrong."""
        self.dismiss()
        ends = time.monotonic() + _LONGEST_WAIT
        reasons = []
        for process, told in self._working:
            try:
                code = process.wait(max(0.0, ends - time.monotonic()))
            except subprocess.TimeoutExpired:
                reasons.append(f"it takes over {_LONGEST_WAIT:.0f} s")
                continue
            if code:
                told.seek(0)
                lines = told.read().decode(errors="replace").strip().splitlines()
                reasons.append(lines[-1] if lines else f"exit code {code}")
        if reasons:
            log.warning(
                "compile  %d of %d processes did not end well, so this one does their work: %s",
                len(reasons),
                len(self._working),
                reasons[0],
            )
        self.close()

    def close(self) -> None:
        """Ends all."""
        self.dismiss()
        _end(self._working)
        self._proved.clear()


@contextmanager
def compilers_ahead(config: Mapping[str, Any]) -> Iterator[Compilers]:
    """Compilers for the run in the body; they start now if it seems to need them.

    It does where a card may run a kernel that was never proved on this machine.

    Args:
        config: of the run, as plain types.
    """
    compilers = Compilers()
    try:
        if _are_needed(config):
            compilers.begin()
        yield compilers
    finally:
        compilers.close()


def _are_needed(config: Mapping[str, Any]) -> bool:
    if config["trainer"].get("accelerator") == "cpu" or not num_cards():
        return False
    asked = config["attention"].get("kernel")
    packages = [package for name, package in KERNELS.items() if asked in ("auto", name)]
    if not any(importlib.util.find_spec(package) for package in packages):
        return False
    if not is_cache_writable():
        return False
    return not list((cache_folder() / "attention").glob("cuda-*.json"))


def _at_once() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return 0 if cores < _FEWEST_CORES else cores // 2


class _Prover:
    """A process that begins when the processes started before it have ended.

    All of them hold the pipe open that it reads: it reads to the end, which comes with the last.
    """

    def __init__(self) -> None:
        end, self._begin = os.pipe()
        try:
            self._process = _started(stdin=end)
        except BaseException:
            os.close(self._begin)
            raise
        finally:
            os.close(end)

    def started_before(self) -> _Compiler:
        """A process that it will wait for."""
        return _started(pass_fds=(self._begin,))

    def told(self, task: dict[str, Any]) -> _Compiler:
        """The process, which has its task and waits for no further processes."""
        with suppress(OSError):  # it has ended already
            os.write(self._begin, json.dumps(task).encode())
        return self.dismissed()

    def dismissed(self) -> _Compiler:
        """The process, which waits for no further ones."""
        os.close(self._begin)
        return self._process


def _started(stdin: int = subprocess.PIPE, pass_fds: Sequence[int] = ()) -> _Compiler:
    told = TemporaryFile()  # noqa: SIM115  # closed by _end
    command = [sys.executable, "-c", _CODE.format(path=sys.path)]
    with _signals_held_back():
        process = subprocess.Popen(
            command, stdin=stdin, stdout=told, stderr=subprocess.STDOUT, pass_fds=pass_fds
        )
    return _Compiler(process, told)


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Processes started in the body never hear ``SIGNALS``; this one hears them after the body.

    Ctrl-C reaches all processes of a run. The one that trains then finishes its step, for which it
    needs the others' work, or kills them.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    former = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _end(compilers: list[_Compiler]) -> None:
    for process, told in compilers:
        process.kill()
        process.wait()
        if process.stdin is not None:
            with suppress(OSError):  # what was not read yet
                process.stdin.close()
        told.close()
    compilers.clear()
