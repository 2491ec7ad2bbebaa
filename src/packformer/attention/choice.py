"""Which kernel runs what."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any

from packformer.attention.kernel import Kernel, Variant
from packformer.attention.kernels import BY_PREFERENCE, KERNELS
from packformer.attention.proof import Verdict
from packformer.attention.proof.verdicts import Verdicts, verdict_now

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
    kernel = _imported(asked) if isinstance(asked, str) and "." in asked else asked
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


def _imported(place: str) -> Any:
    try:
        return resolve_name(place)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"attention.kernel ({place}) cannot be imported: {error}") from error


def candidates(variant: Variant) -> tuple[list[Kernel], list[str]]:
    """The kernels that support ``variant``, in order of preference, and why the others do not.

    The float64 reference is never one: it runs only if named.
    """
    refusals = {kernel: kernel.unsupported(variant) for kernel in BY_PREFERENCE}
    able = [kernel for kernel, reason in refusals.items() if reason is None]
    return able, [f"{kernel.name} {why}" for kernel, why in refusals.items() if why is not None]


def select_kernel(
    variant: Variant, requested: str | Kernel = "auto", wrong: Mapping[str, str] | None = None
) -> tuple[Kernel, str]:
    """The kernel that runs ``variant``, and why.

    Args:
        variant: what is asked of the kernel.
        requested: a kernel or its name, or ``"auto"`` for the first in order of preference
            (flash4, xformers, flex, sdpa) that supports the variant. The float64 reference runs
            only if named.
        wrong: kernels that ``auto`` must not take for this variant, and why.

    Raises:
        ValueError: if no such kernel exists, or none can run the variant; says why.
    """
    able, reasons = candidates(variant)
    if requested != "auto":
        kernel = requested if isinstance(requested, Kernel) else kernel_named(requested)
        if reason := kernel.unsupported(variant):
            names = [other.name for other in able]
            if KERNELS["reference"].unsupported(variant) is None:
                names.append("reference (slow)")
            raise ValueError(
                f"attention kernel {kernel.name} cannot run this variant: it {reason}; "
                f"kernels that can: {', '.join(names) or 'none'}"
            )
        return kernel, "as requested"
    for kernel in able:
        if wrong is None or kernel.name not in wrong:
            before = [r for r in reasons if _rank(r.split()[0]) < _rank(kernel.name)]
            return kernel, "; ".join(before) or "first choice"
        reasons.append(f"{kernel.name} {wrong[kernel.name]}")
    raise ValueError(
        f"no attention kernel for {variant}: {'; '.join(reasons)}; kernel=reference runs it, in "
        "memory quadratic in the row"
    )


def _rank(name: str) -> int:
    return list(KERNELS).index(name)


def select_proved_kernel(
    variant: Variant,
    requested: str | Kernel = "auto",
    proved: Mapping[str, Verdict] | None = None,
) -> tuple[Kernel, str]:
    """The fastest kernel that is proved right for ``variant`` on this machine, and why.

    Verdicts that are missing are made: seconds per kernel on a GPU, once. Kernels are timed first,
    and the fastest is proved; the next only if that one is wrong. A kernel that has been slower
    than another wherever both were measured is not even timed unless that other is wrong, or
    measured here. A kernel that is named is proved too, and used with a warning if it is wrong. A
    kernel of the user's is proved in every process, because its code may have changed.

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
        if verdict.status != "ok":
            log.warning("attention kernel %s %s on %s", kernel.name, verdict.reason, variant)
        return kernel, why
    able, _ = candidates(variant)
    known = {**verdicts.known(variant), **(proved or {})}
    while rivals := _rivals(able, known, variant):
        for kernel in rivals:
            if len(rivals) > 1 and kernel.name not in known:
                log.info("timing   %s on %s, once", kernel.name, variant)
                known[kernel.name] = verdicts.time(kernel, variant)
        if any(known[kernel.name].is_against for kernel in rivals if kernel.name in known):
            continue  # it could not be run: the others may have other rivals now
        fastest = min(rivals, key=lambda kernel: _milliseconds(kernel, known))
        if fastest.name in known and known[fastest.name].status == "ok":
            return fastest, _why(fastest, able, known)
        log.info("proving  %s on %s, once", fastest.name, variant)
        known[fastest.name] = verdicts.of(fastest, variant)
    return select_kernel(variant, "auto", {name: v.reason for name, v in known.items()})  # raises


def _rivals(able: list[Kernel], known: Mapping[str, Verdict], variant: Variant) -> list[Kernel]:
    """The kernels that may be the fastest right one, for all that is known."""
    alive = [k for k in able if k.name not in known or not known[k.name].is_against]
    names = {kernel.name for kernel in alive}
    timed = {name for name in names if name in known}
    return [k for k in alive if k.name in timed or not names & _faster_than(k, variant)]


def _faster_than(kernel: Kernel, variant: Variant) -> set[str]:
    # What a document's bias costs other kernels was not measured.
    return set() if "bias" in variant.features else set(kernel.slower_than)


def _milliseconds(kernel: Kernel, known: Mapping[str, Verdict]) -> float:
    found = known[kernel.name].milliseconds if kernel.name in known else None
    return math.inf if found is None else found


def _why(fastest: Kernel, able: list[Kernel], known: Mapping[str, Verdict]) -> str:
    others = [
        f"{k.name} {v.reason}" if v.is_against else f"{k.name} {v.milliseconds:.2f} ms"
        for k in able
        if k is not fastest and (v := known.get(k.name))
    ]
    why = f"proved, {known[fastest.name].milliseconds:.2f} ms"
    return f"{why} ({', '.join(others)})" if others else why
