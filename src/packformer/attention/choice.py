"""Which kernel runs what."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from packformer.attention.kernel import Kernel, Variant
from packformer.attention.kernels import BY_PREFERENCE, KERNELS
from packformer.attention.proof import Verdict
from packformer.attention.proof.verdicts import Verdicts, verdict_now
from packformer.settings import imported, shown

log = logging.getLogger(__name__)


def kernel_named(name: str) -> Kernel:
    """The kernel called ``name``.

    Raises:
        ValueError: if there is none; names those there are.
    """
    if not isinstance(name, str) or name not in KERNELS:
        raise ValueError(
            f"unknown attention kernel {name!r}: use auto or one of {', '.join(KERNELS)}"
        )
    return KERNELS[name]


def requested_kernel(asked: Any) -> str | Kernel:
    """What a setting asks for: ``"auto"``, a name from ``KERNELS``, or a kernel of the user's.

    Args:
        asked: one of them, or where the user's kernel stands: ``"my_parts.mine"``.

    Raises:
        ValueError: if it is none, or the user's kernel has a name that is taken.
    """
    if asked == "auto" or (isinstance(asked, str) and asked in KERNELS):
        return str(asked)
    is_place = isinstance(asked, str) and "." in asked
    kernel = imported("attention.kernel", asked) if is_place else asked
    if not isinstance(kernel, Kernel):
        raise ValueError(
            f"unknown attention kernel {asked!r}: use auto or one of {', '.join(KERNELS)}; or a "
            "Kernel of yours, such as my_parts.mine"
        )
    if kernel.name == "auto" or KERNELS.get(kernel.name, kernel) is not kernel:
        raise ValueError(
            f"a kernel of yours is named {kernel.name}, as one of packformer's is: rename it"
        )
    return kernel


def select_kernel(
    variant: Variant, requested: str | Kernel = "auto", wrong: Mapping[str, str] | None = None
) -> tuple[Kernel, str]:
    """The kernel that runs ``variant``, and why.

    Args:
        variant: what is asked of the kernel.
        requested: a kernel or its name, or ``"auto"`` for the first of ``BY_PREFERENCE`` that
            supports the variant. The float64 reference runs only if named.
        wrong: kernels that ``auto`` must not take for this variant, and why.

    Raises:
        ValueError: if no such kernel exists, or none can run the variant; says why.
    """
    if requested != "auto":
        kernel = requested if isinstance(requested, Kernel) else kernel_named(requested)
        if reason := kernel.unsupported(variant):
            names = [k.name for k in BY_PREFERENCE if k.unsupported(variant) is None]
            if KERNELS["reference"].unsupported(variant) is None:
                names.append("reference (slow)")
            raise ValueError(
                f"attention kernel {kernel.name} cannot run this variant: it {reason}; "
                f"kernels that can: {', '.join(names) or 'none'}"
            )
        return kernel, "as requested"
    reasons: list[str] = []
    for kernel in BY_PREFERENCE:  # those behind the first that is right need not be imported
        reason = kernel.unsupported(variant) or (wrong or {}).get(kernel.name)
        if reason is None:
            return kernel, "; ".join(reasons) or "first choice"
        reasons.append(f"{kernel.name} {reason}")
    raise ValueError(
        f"no attention kernel for {variant}: {'; '.join(reasons)}; kernel=reference runs it, in "
        "memory quadratic in the row"
    )


def select_proved_kernel(
    variant: Variant,
    requested: str | Kernel = "auto",
    proved: Mapping[str, Verdict] | None = None,
) -> tuple[Kernel, str]:
    """The fastest kernel that is proved right for ``variant`` on this machine, and why.

    Verdicts that are missing are made: seconds per kernel on a GPU, once. Kernels are timed first,
    and the fastest is proved; the next only if that one is wrong. A kernel that has been slower
    than another wherever both were measured is not even timed unless that other is wrong, or
    measured here. A kernel that is named is proved too. If it is wrong, it is used with a warning,
    and the reason given says so. A kernel of the user's is proved in every process, because its
    code may have changed.

    Args:
        variant: what is asked of the kernel.
        requested: a kernel or its name, or ``"auto"``.
        proved: verdicts that were just made, by kernel.

    Raises:
        ValueError: if no kernel, or not the one named, can run the variant.
    """
    if requested in ("reference", KERNELS["reference"]):
        return select_kernel(variant, requested)
    verdicts = Verdicts(variant.device_type)
    if requested != "auto":
        kernel, why = select_kernel(variant, requested)
        if kernel.name in KERNELS:
            verdict = verdicts.of(kernel, variant)
        else:
            log.info("proving  %s on %s, as every run does", kernel.name, variant)
            verdict = verdict_now(kernel, variant)
        if verdict.status == "ok":
            return kernel, f"{why}, proved"
        log.warning("attention kernel %s %s on %s", kernel.name, verdict.reason, variant)
        return kernel, f"{why}, although it {shown(verdict.reason)}"
    known = {**verdicts.known(variant), **(proved or {})}
    while rivals := _rivals(known, variant):
        for kernel in rivals:
            if len(rivals) > 1 and kernel.name not in known:
                log.info("timing   %s on %s, once", kernel.name, variant)
                known[kernel.name] = verdicts.time(kernel, variant)
        if any(known[kernel.name].is_against for kernel in rivals if kernel.name in known):
            continue  # it could not be run: the others may have other rivals now
        fastest = min(rivals, key=lambda kernel: _milliseconds(kernel, known))
        if fastest.name in known and known[fastest.name].status == "ok":
            return fastest, _why(fastest, known)
        log.info("proving  %s on %s, once", fastest.name, variant)
        known[fastest.name] = verdicts.of(fastest, variant)
    return select_kernel(variant, "auto", {name: v.reason for name, v in known.items()})  # raises


def sole_kernel(variant: Variant, requested: str | Kernel = "auto") -> Kernel | None:
    """The kernel that ``select_proved_kernel`` takes if it is proved right; None where it compares
    several first.

    Args:
        variant: what is asked of the kernel.
        requested: a kernel or its name, or ``"auto"``.

    Raises:
        ValueError: if the kernel named cannot run the variant.
    """
    if requested != "auto":
        return select_kernel(variant, requested)[0]
    rivals = _rivals(Verdicts(variant.device_type).known(variant), variant)
    return rivals[0] if len(rivals) == 1 else None


def _rivals(known: Mapping[str, Verdict], variant: Variant) -> list[Kernel]:
    """The kernels that may be the fastest right one, for all that is known.

    Others are not asked whether they support the variant: that imports their packages.
    """
    rivals: list[Kernel] = []
    for kernel in BY_PREFERENCE:  # faster ones first
        verdict = known.get(kernel.name)
        is_outrun = not {rival.name for rival in rivals}.isdisjoint(_faster_than(kernel, variant))
        if verdict is None and is_outrun or verdict is not None and verdict.is_against:
            continue
        if kernel.unsupported(variant) is None:
            rivals.append(kernel)
    return rivals


def _faster_than(kernel: Kernel, variant: Variant) -> set[str]:
    # What a document's bias costs other kernels was not measured.
    return set() if "bias" in variant.features else set(kernel.slower_than)


def _milliseconds(kernel: Kernel, known: Mapping[str, Verdict]) -> float:
    found = known[kernel.name].milliseconds if kernel.name in known else None
    return math.inf if found is None else found


def _why(fastest: Kernel, known: Mapping[str, Verdict]) -> str:
    others = [
        f"{k.name} {v.reason}" if v.is_against else f"{k.name} {v.milliseconds:.2f} ms"
        for k in BY_PREFERENCE
        if k is not fastest and (v := known.get(k.name))
    ]
    why = f"proved, {known[fastest.name].milliseconds:.2f} ms"
    return f"{why} ({', '.join(others)})" if others else why
