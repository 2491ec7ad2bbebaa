"""How many rows make an optimizer step, and how devices share them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from packformer.counted import counted
from packformer.settings import whole

MOST_DEVICES = 1024  # of a node
_MOST_ROWS = 10_000_000
_TOLD = 6  # numbers of devices, at most


@dataclass(frozen=True)
class StepRows:
    """The rows of an optimizer step: ``num_devices`` x ``accumulated``.

    Attributes:
        num_devices: of all nodes; each computes one row at a time.
        accumulated: rows of each device.
    """

    num_devices: int
    accumulated: int

    @property
    def total(self) -> int:
        """Rows of a step."""
        return self.num_devices * self.accumulated

    def __str__(self) -> str:
        devices = counted(self.num_devices, "device")
        return f"{counted(self.total, 'row')} a step: {devices} x {self.accumulated:,} accumulated"


def share_rows(trainer: Mapping[str, Any], num_devices: int) -> StepRows:
    """Divides ``rows_per_step`` among devices, or multiplies ``accumulate_grad_batches`` by them.

    Args:
        trainer: settings of that group.
        num_devices: of all nodes.

    Raises:
        ValueError: if neither is given, they contradict each other, or nothing whole comes out.
    """
    rows, accumulated = trainer.get("rows_per_step"), trainer.get("accumulate_grad_batches")
    check_rows(rows, accumulated)
    if rows is None:
        return StepRows(num_devices, accumulated)  # type: ignore[arg-type]
    if accumulated is not None and rows != num_devices * accumulated:
        raise ValueError(
            f"trainer.rows_per_step ({rows}) is not trainer.accumulate_grad_batches "
            f"({accumulated}) x {counted(num_devices, 'device')}: write "
            f"trainer.rows_per_step={num_devices * accumulated} and leave the other out"
        )
    if rows % num_devices:
        possible = _divisors(rows, num_devices, MOST_DEVICES * trainer.get("num_nodes", 1))
        raise ValueError(
            f"trainer.rows_per_step ({rows}) cannot be shared equally by "
            f"{counted(num_devices, 'device')}: use {possible}, or trainer.rows_per_step="
            f"{_multiples_around(rows, num_devices)}"
        )
    return StepRows(num_devices, rows // num_devices)


def check_rows(rows: Any, accumulated: Any) -> None:
    """Checks both settings, whatever the number of devices.

    Raises:
        ValueError: if one is no whole number from 1 up, or none is given.
    """
    given = {"rows_per_step": rows, "accumulate_grad_batches": accumulated}
    for name, value in given.items():
        if value is not None:
            whole(1, _MOST_ROWS).check(f"trainer.{name}", value)
    if rows is None and accumulated is None:
        raise ValueError("trainer.rows_per_step (null) must be a whole number from 1 up")


def _divisors(rows: int, num_devices: int, most: int) -> str:
    """The numbers of devices, nearest to ``num_devices``, that can share ``rows``."""
    small = [number for number in range(1, math.isqrt(rows) + 1) if rows % number == 0]
    possible = {*small, *(rows // number for number in small)}
    nearest = sorted(
        (number for number in possible if number <= most),
        key=lambda number: (abs(number - num_devices), number),
    )
    found = [str(number) for number in sorted(nearest[:_TOLD])]
    if found == ["1"]:
        return "1 device"
    return f"{', '.join(found[:-1])} or {found[-1]} devices"


def _multiples_around(rows: int, num_devices: int) -> str:
    below = rows // num_devices * num_devices
    return " or ".join(str(near) for near in (below, below + num_devices) if near)
