"""Processes that compile a kernel's programs, before proof and training need them.

They start with the command, so that they import torch while the command does, and wait to be told
which calls a run will need. This module imports no torch.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple

from packformer.cache import cache_folder
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


class Compilers:
    """Processes that compile. Their work stays on disk; what fails there fails again, and is told,
    where the programs are needed.
    """

    def __init__(self) -> None:
        self._waiting: list[_Compiler] = []
        self._working: list[_Compiler] = []

    def begin(self) -> None:
        """Starts processes that import what compiles."""
        with suppress(OSError):  # no process can be started: the run compiles by itself
            for _ in range(min(_MOST_AHEAD, _at_once())):
                self._waiting.append(_started())

    @property
    def have_begun(self) -> bool:
        """Whether any wait to be given something."""
        return bool(self._waiting)

    def give(self, kernel: str, device_type: str, calls: Sequence[tuple[str, bool]]) -> None:
        """Has them compile, each call in a process of its own if there are cores for it.

        Args:
            kernel: its name.
            device_type: ``"cpu"`` or ``"cuda"``.
            calls: JSON of a ``Case``, and whether algorithms are deterministic.
        """
        at_once = min(len(calls), _at_once())
        if not at_once:
            return
        log.info("compile  %s, before it is proved", kernel)
        for first in range(at_once):
            compiler = self._waiting.pop() if self._waiting else _started()
            self._working.append(compiler)
            task = {"kernel": kernel, "device_type": device_type, "calls": calls[first::at_once]}
            assert compiler.process.stdin is not None
            with suppress(OSError):  # it has ended already: its exit code and last words are read
                compiler.process.stdin.write(json.dumps(task).encode())
                compiler.process.stdin.close()

    def dismiss(self) -> None:
        """Ends those that were given nothing."""
        _end(self._waiting)

    def wait(self) -> None:
        """Returns when all that were given something have ended, or after two minutes; warns of
        what went wrong."""
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
                "compile  %d of %d processes did not end well, so this one compiles: %s",
                len(reasons),
                len(self._working),
                reasons[0],
            )
        self.close()

    def close(self) -> None:
        """Ends all."""
        _end(self._waiting)
        _end(self._working)


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
    try:
        return not list((cache_folder() / "attention").glob("cuda-*.json"))
    except ValueError:  # the run tells that it has no cache
        return False


def _at_once() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return 0 if cores < _FEWEST_CORES else cores // 2


def _started() -> _Compiler:
    told = TemporaryFile()  # noqa: SIM115  # closed by _end
    command = [sys.executable, "-c", _CODE.format(path=sys.path)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=told, stderr=subprocess.STDOUT
    )
    return _Compiler(process, told)


def _end(compilers: list[_Compiler]) -> None:
    for process, told in compilers:
        process.kill()
        process.wait()
        with suppress(OSError):  # what was not read yet
            assert process.stdin is not None
            process.stdin.close()
        told.close()
    compilers.clear()
