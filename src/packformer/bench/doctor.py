"""Which attention kernels compute what they claim on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from packformer.attention import KERNELS, Variant, Verdict, Verdicts, select_proved_kernel
from packformer.attention.proof import TOLERANCE
from packformer.attention.verdicts import machine

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


@dataclass(frozen=True)
class Finding:
    """One kernel and variant.

    Attributes:
        variant: a name from ``VARIANTS``.
        kernel: a name from ``KERNELS``.
        unsupported: why the kernel does not take the variant; None if it does.
        verdict: what was seen; None if unsupported.
        seconds: the examination took, compilation included.
    """

    variant: str
    kernel: str
    unsupported: str | None
    verdict: Verdict | None
    seconds: float


@dataclass(frozen=True)
class Examination:
    """What the doctor found.

    Attributes:
        machine: device, driver and versions.
        variant: dtype and head size of all variants, as text.
        tolerance: largest relative Frobenius error that passes.
        findings: kernels by variants.
        auto: the kernel ``auto`` takes for each variant, and why; or that none can run it.
    """

    machine: dict[str, str | None]
    variant: str
    tolerance: float
    findings: list[Finding]
    auto: dict[str, str]

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
    """Makes every verdict anew, and keeps it for training.

    Args:
        device_type: ``"cpu"`` or ``"cuda"``.
        dtype: of queries, keys and values.
        head_dim: K.
        report: called with what is examined next.
    """
    verdicts = Verdicts(device_type)
    findings, auto = [], {}
    for name, features in VARIANTS.items():
        variant = Variant(device_type, dtype, head_dim, features)
        for kernel in KERNELS.values():
            if kernel.name == "reference":
                continue
            report(f"{kernel.name} on {name}")
            start = time.perf_counter()
            reason = kernel.unsupported(variant)
            verdict = None if reason else verdicts.of(kernel, variant, again=True)
            seconds = time.perf_counter() - start
            findings.append(Finding(name, kernel.name, reason, verdict, seconds))
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        try:
            chosen, why = select_proved_kernel(variant)
            auto[name] = f"{chosen.name}: {why}"
        except ValueError:
            auto[name] = "none"
    return Examination(
        machine=machine(device_type),
        variant=str(Variant(device_type, dtype, head_dim)),
        tolerance=TOLERANCE[dtype],
        findings=findings,
        auto=auto,
    )


def print_examination(examination: Examination, console: Console) -> None:
    """Prints what was found, wrong kernels last."""
    for name, value in examination.machine.items():
        console.print(f"{name:20} {value or 'not installed'}", highlight=False)
    table = Table(
        title=f"{examination.variant}: relative error against float64, at most "
        f"{examination.tolerance:g}",
        title_justify="left",
    )
    table.add_column("variant")
    table.add_column("kernel")
    table.add_column("verdict")
    for column in ("out", "dq", "dk", "dv", "slopes", "bias", "ms"):
        table.add_column(column, justify="right")
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
        time = "" if verdict.milliseconds is None else f"{verdict.milliseconds:.2f}"
        table.add_row(finding.variant, finding.kernel, verdict.status, *errors, time)
    console.print(table)
    seconds = sum(finding.seconds for finding in examination.findings)
    console.print(f"examined in {seconds:.0f} s; unsupported")
    for (kernel, reason), variants in unsupported.items():
        console.print(f"  {kernel} {reason}: {', '.join(variants)}", highlight=False)
    console.print("auto takes")
    for name, choice in examination.auto.items():
        console.print(f"  {name:20} {choice}", highlight=False)
    for finding in examination.wrong:
        assert finding.verdict is not None
        console.print(
            f"[bold red]wrong[/]: {finding.kernel} on {finding.variant} {finding.verdict.reason}; "
            "auto will not take it"
        )
    if not examination.wrong:
        console.print("every kernel computes what it claims, and no document sees another")
