"""Verdicts of this machine, kept in the user's cache."""

from __future__ import annotations

import json
import logging
import platform
import re
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

import packformer
from packformer.attention.kernel import Kernel, Variant
from packformer.attention.kernels import KERNELS
from packformer.attention.proof.verdict import STATUSES, Verdict, judge, only_timed, prove
from packformer.cache import cache_folder, fingerprint
from packformer.nn import position
from packformer.whole_file import replace_text

log = logging.getLogger(__name__)


def machine(device_type: str) -> dict[str, str | None]:
    """What verdicts depend on: device, driver, packages with kernels, and the code around them."""
    sources = [*sorted(Path(__file__).parents[1].rglob("*.py")), Path(position.__file__)]
    code = fingerprint(file.read_bytes() for file in sources)
    found: dict[str, str | None] = {"packformer": f"{packformer.__version__} (kernels {code[:8]})"}
    for package in dict.fromkeys(("torch", *chain(*(k.packages for k in KERNELS.values())))):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    if device_type == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = torch.version.cuda
        found["driver"] = _driver()
    else:
        found["cpu"] = platform.processor() or platform.machine()
    return found


def _driver() -> str | None:
    file = Path("/proc/driver/nvidia/version")  # Linux; elsewhere the driver's part stays unknown
    found = re.search(r"\d+(\.\d+)+", file.read_text()) if file.is_file() else None
    return found and found[0]


class Verdicts:
    """Verdicts of this machine, read from and added to the user's cache.

    Args:
        device_type: ``"cpu"`` or ``"cuda"``.
    """

    def __init__(self, device_type: str) -> None:
        key = fingerprint([json.dumps(machine(device_type), sort_keys=True)])
        self._file = cache_folder() / "attention" / f"{device_type}-{key}.json"

    def known(self, variant: Variant) -> dict[str, Verdict]:
        """Verdicts made before, by kernel."""
        return {name: Verdict(**v) for name, v in self._read().get(str(variant), {}).items()}

    def of(self, kernel: Kernel, variant: Variant) -> Verdict:
        """The verdict of ``kernel`` on ``variant``, proved; made now if there is none.

        Raises:
            ValueError: if the kernel left a GPU that nothing can run on in this process.
        """
        verdict = self.known(variant).get(kernel.name)
        if verdict is None:
            return self._keep_new(kernel, variant, judge(kernel, variant))
        if verdict.status == "slower":
            return self._keep_new(kernel, variant, judge(kernel, variant, verdict.milliseconds))
        return verdict

    def time(self, kernel: Kernel, variant: Variant) -> Verdict:
        """The time of ``kernel`` on ``variant``, measured now, and no proof.

        Raises:
            ValueError: if the kernel left a GPU that nothing can run on in this process.
        """
        return self._keep_new(kernel, variant, only_timed(kernel, variant))

    def _keep_new(self, kernel: Kernel, variant: Variant, verdict: Verdict) -> Verdict:
        self.keep(kernel, variant, verdict)
        _check_gpu(kernel, variant, verdict, "start again, it will not be tried")
        return verdict

    def keep(self, kernel: Kernel, variant: Variant, verdict: Verdict) -> None:
        """Saves a verdict in place of an earlier one; running out of memory leaves none."""
        key = str(variant)
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self._file.with_suffix(".lock")):  # another process may add some too
                everything = self._read()
                of_variant = everything.setdefault(key, {})
                of_variant.pop(kernel.name, None)
                if verdict.status != "no memory":
                    of_variant[kernel.name] = asdict(verdict)
                self._write(everything)
        except OSError as error:
            log.warning("the verdict on %s cannot be kept (%s)", kernel.name, error)
        known_wrong.cache_clear()

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
            for verdicts in found.values():
                for verdict in verdicts.values():
                    _check(Verdict(**verdict))
        except (OSError, ValueError, TypeError, AttributeError):
            return {}  # not made yet, or damaged: it is made again
        return found

    def _write(self, everything: dict[str, Any]) -> None:
        replace_text(self._file, json.dumps(everything, indent=1))


@cache
def verdict_now(kernel: Kernel, variant: Variant) -> Verdict:
    """The verdict on a kernel whose code ``machine`` knows nothing of: made once a process.

    Raises:
        ValueError: if the kernel left a GPU that nothing can run on in this process.
    """
    verdict = prove(kernel, variant)
    _check_gpu(kernel, variant, verdict, "mend it, or use another attention.kernel")
    return verdict


def _check_gpu(kernel: Kernel, variant: Variant, verdict: Verdict, remedy: str) -> None:
    if verdict.status != "failed" or variant.device_type != "cuda":
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        raise ValueError(
            f"attention kernel {kernel.name} {verdict.reason}, and nothing runs on the GPU any "
            f"more: {remedy}"
        ) from error


def _check(verdict: Verdict) -> None:
    good = (
        verdict.status in STATUSES
        and isinstance(verdict.reason, str)
        and _are_numbers(verdict.errors)
        and _are_numbers(verdict.roundings)
        and isinstance(verdict.milliseconds, float) != verdict.is_against
    )
    if not good:
        raise ValueError("a verdict is damaged")


def _are_numbers(values: Any) -> bool:
    return isinstance(values, dict) and all(isinstance(x, float) for x in values.values())


@cache
def known_wrong(variant: Variant) -> dict[str, str]:
    """Kernels with a verdict against them for ``variant`` on this machine, and the reasons."""
    known = Verdicts(variant.device_type).known(variant)
    return {name: verdict.reason for name, verdict in known.items() if verdict.is_against}
