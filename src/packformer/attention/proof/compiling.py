"""Compiles a kernel's programs in processes of their own, before proof and training need them.

A proof needs several programs, and a model needs others, because kernels are compiled for the
number of query heads that share keys. One after another they take longer than all else of a proof.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from tempfile import TemporaryFile
from typing import IO, NamedTuple

import torch

from packformer.attention.kernel import Kernel, Variant
from packformer.attention.kernels import KERNELS
from packformer.attention.proof.case import Case
from packformer.attention.proof.comparison import results
from packformer.attention.proof.rows import mixed_row, odd_rows, timed_row
from packformer.attention.proof.verdict import deterministic, first_line

log = logging.getLogger(__name__)

_CODE = (
    "import sys; sys.path[:] = {path!r}; from packformer.attention.proof.compiling import main; "
    "main({kernel!r}, {device_type!r}, {calls!r})"
)
_LONGEST_WAIT = 120.0  # seconds
_FEWEST_CORES = 4  # with fewer, this process compiles as fast by itself
_SMALL_BLOCK = 64  # tokens: programs may differ for documents that fit into one block of queries
_MOST_TOKENS = 8192


class Call(NamedTuple):
    """A call whose programs are compiled.

    Attributes:
        case: what is called.
        deterministic: under deterministic algorithms.
    """

    case: Case
    deterministic: bool = False


def calls_of_proof(variant: Variant) -> list[Call]:
    """Calls that need the programs of a proof, those of the usual rows first."""
    mixed = mixed_row(variant)
    small = sorted(odd_rows(variant), key=lambda case: case.num_tokens)
    two_blocks = next(case for case in small if max(case.lengths) > _SMALL_BLOCK)
    return [
        Call(timed_row(variant)),
        Call(mixed),
        Call(mixed, deterministic=True),
        Call(small[0]),
        Call(two_blocks),
    ]


def call_of_layer(
    variant: Variant, num_heads: int, num_kv_heads: int, row_length: int, longest: int
) -> Call:
    """A call that needs the programs of a model's layer.

    Args:
        variant: of the layer; without a bias tensor.
        num_heads: H.
        num_kv_heads: G.
        row_length: M.
        longest: tokens that a document has at most.
    """
    tokens = min(row_length, _MOST_TOKENS)  # the number does not matter, memory does
    case = replace(
        mixed_row(variant),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        lengths=(tokens,),
        empty_slots=0,
        bound=max(longest, tokens),
        one_projection=True,
    )
    return Call(case, deterministic=torch.are_deterministic_algorithms_enabled())


class Compiling:
    """Processes that compile. Their work stays on disk; what fails there fails again, and is told,
    where the programs are needed.
    """

    def __init__(self) -> None:
        self._processes: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []

    def start(self, kernel: Kernel, device_type: str, calls: Sequence[Call]) -> None:
        """Starts to compile, each call in a process of its own if there are cores for it."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        if cores < _FEWEST_CORES or not calls:
            return
        log.info("compile  %s, before it is proved", kernel.name)
        at_once = min(len(calls), cores // 2)
        for first in range(at_once):
            plain = [(call.case.to_json(), call.deterministic) for call in calls[first::at_once]]
            code = _CODE.format(
                path=sys.path, kernel=kernel.name, device_type=device_type, calls=plain
            )
            told = TemporaryFile()  # noqa: SIM115  # closed by close
            command = [sys.executable, "-c", code]
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=told, stderr=subprocess.STDOUT
            )
            self._processes.append((process, told))

    def wait(self) -> None:
        """Returns when all have ended, or after two minutes; warns of what went wrong."""
        ends = time.monotonic() + _LONGEST_WAIT
        reasons = []
        for process, told in self._processes:
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
                len(self._processes),
                reasons[0],
            )
        self.close()

    def close(self) -> None:
        """Ends those that still run."""
        for process, told in self._processes:
            process.kill()
            process.wait()
            told.close()
        self._processes.clear()


def main(kernel: str, device_type: str, calls: Sequence[tuple[str, bool]]) -> None:
    """Runs ``calls``, forward and backward: what a process of its own does."""
    torch.set_num_threads(1)
    try:
        for text, is_deterministic in calls:
            inputs = Case.from_json(text).inputs(device_type)
            with deterministic(strict=False) if is_deterministic else nullcontext():
                results(KERNELS[kernel].run, inputs)
    except Exception as error:  # a kernel may fail in any way
        sys.exit(first_line(error))
