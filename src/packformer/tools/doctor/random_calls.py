"""Random calls through every attention kernel of this machine, beside float64."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table

from packformer.attention import KERNELS, Kernel
from packformer.attention.proof import MOST_ROUNDINGS, Case
from packformer.attention.proof.draws import Shrunk, draw_cases
from packformer.attention.proof.fuzz import Outcome, run_case, smallest_failure
from packformer.counted import counted
from packformer.tools.doctor.processes import run_in_processes

_MOST_PROCESSES = 16
_SHOWN = ("out", "dq", "dk", "dv", "slopes", "bias")


@dataclass(frozen=True)
class FuzzReport:
    """What random calls found.

    Attributes:
        device_type: ``"cpu"`` or ``"cuda"``.
        seed: of the draws.
        outcomes: of all cases.
        smallest: for each kernel that failed, the smallest case that was found to fail.
        seconds: it took, compilation included.
    """

    device_type: str
    seed: int
    outcomes: Sequence[Outcome]
    smallest: Mapping[str, Shrunk]
    seconds: float

    @property
    def failures(self) -> list[Outcome]:
        """Cases that a kernel got wrong, or could not run to the end."""
        return [outcome for outcome in self.outcomes if outcome.reason is not None]


def kernels_here(device_type: str, named: str | None = None) -> list[Kernel]:
    """The kernels that run on this machine, the float64 reference left out.

    Args:
        device_type: ``"cpu"`` or ``"cuda"``.
        named: the only one wanted; None for all.

    Raises:
        ValueError: if there is no such kernel here; says why.
    """
    wanted = [k for k in KERNELS.values() if k.name != "reference" and named in (None, k.name)]
    if not wanted:
        names = ", ".join(name for name in KERNELS if name != "reference")
        raise ValueError(f"--kernel ({named}) must be one of {names}")
    here = [k for k in wanted if device_type in k.devices and k.lacks() is None]
    if not here:
        (kernel,) = wanted
        why = kernel.lacks() if device_type in kernel.devices else f"does not run on {device_type}"
        raise ValueError(f"--kernel {named}: it {why}")
    return here


def run_again(kernels: Sequence[Kernel], device_type: str, case: str) -> list[Outcome]:
    """Runs one case through ``kernels``.

    Args:
        kernels: those that support it.
        device_type: ``"cpu"`` or ``"cuda"``.
        case: as ``print_fuzz`` shows it.

    Raises:
        ValueError: if that is no case, or no kernel supports it; says why.
    """
    read = Case.from_json(case)
    variant = read.variant(device_type)
    able = [kernel for kernel in kernels if kernel.unsupported(variant) is None]
    if not able:
        reasons = "; ".join(f"{kernel.name} {kernel.unsupported(variant)}" for kernel in kernels)
        raise ValueError(f"no kernel runs this case: {reasons}")
    return [run_case(kernel, read, device_type) for kernel in able]


def print_outcomes(outcomes: Sequence[Outcome], console: Console) -> None:
    """Prints a line for each kernel."""
    for outcome in outcomes:
        shown = ", ".join(f"{name} {times:.3g}" for name, times in outcome.roundings.items())
        console.print(
            f"{outcome.kernel}: {outcome.reason or 'right'} (roundings: {shown})", highlight=False
        )


def fuzz(
    kernels: Sequence[Kernel],
    device_type: str,
    count: int,
    seed: int = 0,
    report: Callable[[str], None] = lambda doing: None,
) -> FuzzReport:
    """Draws ``count`` cases, runs each, and makes the first failure of each kernel small.

    Args:
        kernels: that the cases are shared out to.
        device_type: ``"cpu"``, in this process, or ``"cuda"``, in several: compiling takes long.
        count: of cases, over all kernels.
        seed: of the draws.
        report: called with what is done.
    """
    start = time.perf_counter()
    shares = [count // len(kernels) + (i < count % len(kernels)) for i in range(len(kernels))]
    groups = [
        (kernel, cases)
        for kernel, share in zip(kernels, shares, strict=True)
        for cases in draw_cases(kernel, device_type, str(seed), share)
    ]
    random.Random(seed).shuffle(groups)  # kernels that compile long beside those that run long
    outcomes: list[Outcome] = []
    for found in _all_outcomes(groups, device_type):
        outcomes += found
        for outcome in found:
            if outcome.reason is not None:
                report(f"failed: {outcome.kernel} {outcome.reason}: {outcome.case.to_json()}")
        failed = sum(outcome.reason is not None for outcome in outcomes)
        report(f"{len(outcomes):,} of {counted(count, 'case')}, {failed} failed")
    smallest = {}
    for kernel in kernels:
        failed_here = [o for o in outcomes if o.kernel == kernel.name and o.reason is not None]
        if failed_here:
            least = min(failed_here, key=lambda outcome: outcome.case.num_tokens)
            report(f"making a failure of {kernel.name} smaller")
            smallest[kernel.name] = _smallest(kernel, least, device_type)
    return FuzzReport(device_type, seed, outcomes, smallest, time.perf_counter() - start)


_Groups = Sequence[tuple[Kernel, list[Case]]]


def _all_outcomes(groups: _Groups, device_type: str) -> Iterator[list[Outcome]]:
    if device_type == "cpu":
        for kernel, cases in groups:
            yield [run_case(kernel, case, device_type) for case in cases]
        return
    workers = min(_MOST_PROCESSES, os.cpu_count() or 1, len(groups))
    tasks = [(kernel.name, cases, device_type) for kernel, cases in groups]
    for number, found in run_in_processes(_run_group, tasks, workers):
        kernel, cases = groups[number]
        dead = "fails: its process died, in this case or another of its program"
        yield found or [Outcome(kernel.name, case, dead, {}) for case in cases]


_gpu_is_lost = False


def _run_group(name: str, cases: list[Case], device_type: str) -> list[Outcome]:
    """In a process of its own."""
    global _gpu_is_lost
    if _gpu_is_lost:
        os._exit(1)  # nothing runs here any more: another process is started
    torch.set_num_threads(1)
    torch._inductor.config.compile_threads = 1  # else each process starts a dozen more
    torch.compiler.reset()  # else torch keeps all programs of all groups
    outcomes = []
    for number, case in enumerate(cases):
        if number == 1:
            # A program for this row alone, as in a compiled model; the next serves all row lengths.
            torch.compiler.reset()
        outcomes.append(run_case(KERNELS[name], case, device_type))
        if outcomes[-1].reason and outcomes[-1].reason.startswith("fails"):
            try:
                torch.cuda.synchronize()
            except RuntimeError:
                _gpu_is_lost = True
                lost = f"fails: not run, the GPU was lost: {outcomes[-1].reason}"
                return outcomes + [Outcome(name, rest, lost, {}) for rest in cases[number + 1 :]]
    return outcomes


def _smallest(kernel: Kernel, outcome: Outcome, device_type: str) -> Shrunk:
    if device_type == "cpu":
        return smallest_failure(outcome, kernel, device_type)
    for _, found in run_in_processes(_shrink_named, [(kernel.name, outcome, device_type)], 1):
        if found is not None:
            return found
    assert outcome.reason is not None
    return Shrunk(outcome.case, outcome.reason, 0)


def _shrink_named(name: str, outcome: Outcome, device_type: str) -> Shrunk:
    return smallest_failure(outcome, KERNELS[name], device_type)


def print_fuzz(found: FuzzReport, console: Console) -> None:
    """Prints a table of all kernels, and their smallest failures."""
    table = Table(
        title=f"{counted(len(found.outcomes), 'random call')} on {found.device_type}, "
        f"seed {found.seed}: error of the worst token, in roundings, at most {MOST_ROUNDINGS:g}",
        title_justify="left",
    )
    for column in ("kernel", "calls", "failed", *_SHOWN):
        table.add_column(column, justify="left" if column == "kernel" else "right")
    for name in dict.fromkeys(outcome.kernel for outcome in found.outcomes):
        of_kernel = [outcome for outcome in found.outcomes if outcome.kernel == name]
        worst = [
            max((o.roundings[result] for o in of_kernel if result in o.roundings), default=None)
            for result in _SHOWN
        ]
        failed = sum(outcome.reason is not None for outcome in of_kernel)
        cells = ["" if value is None else f"{value:.3g}" for value in worst]
        table.add_row(name, str(len(of_kernel)), str(failed), *cells)
    console.print(table)
    console.print(f"in {found.seconds:.0f} s")
    for name, shrunk in found.smallest.items():
        console.print(f"[bold red]failed[/]: {name} {shrunk.reason}", highlight=False)
        console.print(
            f"  packformer doctor --kernel {name} --case '{shrunk.case.to_json()}'",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )
    if not found.failures:
        console.print("every kernel computed every case")
