"""Which attention kernels compute what they claim on this machine."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from packformer.attention import KERNELS, Kernel, Variant, Verdict, Verdicts, select_proved_kernel
from packformer.attention.proof import MOST_ROUNDINGS, TOLERANCE, clock, prove, warm_up
from packformer.attention.proof.verdicts import machine
from packformer.tools.doctor.processes import run_in_processes

VARIANTS: dict[str, frozenset[str]] = {
    "mha": frozenset(),
    "gqa": frozenset({"grouped"}),
    "mha window": frozenset({"window"}),
    "gqa window": frozenset({"grouped", "window"}),
    "mha alibi": frozenset({"alibi"}),
    "gqa alibi": frozenset({"grouped", "alibi"}),
    "gqa alibi window": frozenset({"grouped", "alibi", "window"}),
    "gqa given alibi": frozenset({"grouped", "alibi", "given_alibi"}),
    "gqa learned alibi": frozenset({"grouped", "alibi", "learned_alibi"}),
    "gqa soft-cap": frozenset({"grouped", "soft_cap"}),
    "gqa alibi soft-cap": frozenset({"grouped", "alibi", "soft_cap"}),
    "mha bias": frozenset({"bias"}),
    "gqa learned bias": frozenset({"grouped", "bias", "learned_bias"}),
    "gqa score function": frozenset({"grouped", "score_mod"}),
}
"""What is examined, by the name shown."""


_MOST_PROCESSES = 8


@dataclass(frozen=True)
class Finding:
    """One kernel and variant.

    Attributes:
        variant: a name from ``VARIANTS``.
        kernel: a name from ``KERNELS``.
        unsupported: why the kernel does not take the variant; None if it does.
        verdict: what was seen; None if unsupported.
    """

    variant: str
    kernel: str
    unsupported: str | None
    verdict: Verdict | None


@dataclass(frozen=True)
class Examination:
    """What the doctor found.

    Attributes:
        machine: device, driver and versions.
        loaded: how the libraries with kernels were loaded, and what of them is there.
        variant: dtype and head size of all variants, as text.
        tolerance: largest relative Frobenius error that passes.
        findings: kernels by variants.
        seconds: it took, compilation included.
        auto: the kernel ``auto`` takes for each variant, and why; or that none can run it.
    """

    machine: dict[str, str | None]
    loaded: dict[str, str]
    variant: str
    tolerance: float
    findings: list[Finding]
    auto: dict[str, str]
    seconds: float

    @property
    def wrong(self) -> list[Finding]:
        """Kernels that claim a variant and do not compute it."""
        return [f for f in self.findings if f.verdict is not None and f.verdict.status != "ok"]

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)


def examine(
    device_type: str,
    dtype: torch.dtype,
    head_dim: int,
    report: Callable[[str], None] = lambda doing: None,
) -> Examination:
    """Proves every kernel again and keeps the verdicts for training.

    Args:
        device_type: ``"cpu"`` or ``"cuda"``.
        dtype: of queries, keys and values.
        head_dim: K.
        report: called with what is examined next.

    Raises:
        ValueError: if no kernel takes the dtype and head size.
    """
    start = time.perf_counter()
    variants = {
        name: Variant(device_type, dtype, head_dim, features) for name, features in VARIANTS.items()
    }
    cells = [
        (n, kernel) for n in variants for kernel in KERNELS.values() if kernel.name != "reference"
    ]
    reasons = {(n, kernel): kernel.unsupported(variants[n]) for n, kernel in cells}
    able = [(variants[n], kernel) for n, kernel in cells if reasons[n, kernel] is None]
    if not able:
        type_name = str(dtype).removeprefix("torch.")
        raise ValueError(
            f"--head-dim ({head_dim}): no kernel takes that size in {type_name} on {device_type}"
        )
    proofs = _prove_all(able, report)
    verdicts = Verdicts(device_type)
    for number, ((variant, kernel), verdict) in enumerate(proofs.items()):
        report(f"taking times: {number} of {len(proofs)}, {kernel.name} on {variant}")
        proofs[variant, kernel] = clock(kernel, variant, verdict)
        verdicts.keep(kernel, variant, proofs[variant, kernel])
    findings = [
        Finding(n, kernel.name, reasons[n, kernel], proofs.get((variants[n], kernel)))
        for n, kernel in cells
    ]
    auto = {}
    for name, variant in variants.items():
        proved = {kernel.name: v for (of, kernel), v in proofs.items() if of == variant}
        try:
            chosen, why = select_proved_kernel(variant, proved=proved)
            auto[name] = f"{chosen.name}: {why}"
        except ValueError:
            auto[name] = "none"
    return Examination(
        machine=machine(device_type),
        loaded=_loaded(device_type),
        variant=str(Variant(device_type, dtype, head_dim)),
        tolerance=TOLERANCE[dtype],
        findings=findings,
        auto=auto,
        seconds=time.perf_counter() - start,
    )


def _loaded(device_type: str) -> dict[str, str]:
    return {
        kernel.name: kernel.lacks() or kernel.loaded(device_type)
        for kernel in KERNELS.values()
        if device_type in kernel.devices and kernel.name != "reference"
    }


_Cell = tuple[Variant, Kernel]


def _prove_all(cells: list[_Cell], report: Callable[[str], None]) -> dict[_Cell, Verdict]:
    """Verdicts without times.

    On a GPU in several processes, because compiling the kernels takes long. A failed proof is
    repeated in a process of its own, because an illegal memory access spoils everything after it.
    """
    proofs: dict[_Cell, Verdict] = {}

    def settle(cell: _Cell, verdict: Verdict) -> None:
        proofs[cell] = verdict
        report(f"proving: {len(proofs)} of {len(cells)} done, last {cell[1].name} on {cell[0]}")

    if not cells or cells[0][0].device_type == "cpu":
        for variant, kernel in cells:
            settle((variant, kernel), prove(kernel, variant))
        return proofs
    for cell, verdict in _in_processes(cells, min(_MOST_PROCESSES, os.cpu_count() or 1)):
        settle(cell, verdict)
    for cell in cells:
        if proofs[cell].status == "failed":
            for again in _in_processes([cell], 1):
                settle(*again)
    return {cell: proofs[cell] for cell in cells}


def _in_processes(cells: list[_Cell], workers: int) -> Iterator[tuple[_Cell, Verdict]]:
    tasks = [(kernel.name, variant) for variant, kernel in cells]
    died = Verdict("failed", "fails: its process died", {}, {}, False, None)
    for number, verdict in run_in_processes(_prove_named, tasks, workers):
        yield cells[number], verdict or died


def _prove_named(name: str, variant: Variant) -> Verdict:
    torch.set_num_threads(1)
    torch._inductor.config.compile_threads = 1  # else each process starts a dozen more
    verdict = prove(KERNELS[name], variant)
    if verdict.status == "ok":
        with suppress(Exception):  # the clock will meet it again, and say so
            warm_up(KERNELS[name], variant)
    return verdict


def print_examination(examination: Examination, console: Console) -> None:
    """Prints what was found, wrong kernels last."""
    for name, value in examination.machine.items():
        console.print(f"{name:20} {value or 'not installed'}", highlight=False)
    for name, text in examination.loaded.items():
        console.print(f"{name:20} {text}", highlight=False)
    table = Table(
        title=f"{examination.variant}: relative error against float64, at most "
        f"{examination.tolerance:g}; the worst token in roundings, at most {MOST_ROUNDINGS:g}",
        title_justify="left",
    )
    table.add_column("variant")
    table.add_column("kernel")
    table.add_column("verdict")
    for column in ("out", "dq", "dk", "dv", "slopes", "bias", "roundings"):
        table.add_column(column, justify="right")
    table.add_column("isolated")
    table.add_column("ms", justify="right")
    unsupported: dict[tuple[str, str], list[str]] = {}
    for finding in examination.findings:
        verdict = finding.verdict
        if verdict is None:
            key = (finding.kernel, finding.unsupported or "")
            unsupported.setdefault(key, []).append(finding.variant)
            continue
        errors = [
            f"{verdict.errors[name]:.1e}" if name in verdict.errors else ""
            for name in ("out", "dq", "dk", "dv", "slopes", "bias")
        ]
        worst = max(verdict.roundings.values(), default=math.nan)
        time = "" if verdict.milliseconds is None else f"{verdict.milliseconds:.2f}"
        isolated = "yes" if verdict.isolated else ""
        table.add_row(
            finding.variant, finding.kernel, verdict.status, *errors, f"{worst:.2g}", isolated, time
        )
    console.print(table)
    console.print(f"examined in {examination.seconds:.0f} s")
    console.print("unsupported")
    for (kernel, reason), variants in unsupported.items():
        named = "everything" if len(variants) == len(VARIANTS) else ", ".join(variants)
        console.print(f"  {kernel} {reason}: {named}", highlight=False)
    console.print("auto takes")
    for name, choice in examination.auto.items():
        console.print(f"  {name:20} {choice}", highlight=False)
    for finding in examination.wrong:
        assert (verdict := finding.verdict) is not None
        console.print(
            f"[bold red]{verdict.status}[/]: {finding.kernel} on {finding.variant} "
            f"{verdict.reason}; auto will not take it"
        )
    if not examination.wrong:
        console.print("every kernel computes what it claims, and no document sees another")
