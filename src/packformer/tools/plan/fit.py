"""``packformer plan PRESET``: whether a training fits the memory of a GPU."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from packformer.tools.plan.memory import memory_of_rank

_GB = 10**9


def print_fit(preset: str, overrides: Sequence[str], card_gb: float) -> None:
    """Prints what each rank's tensors take, and whether they fit.

    Args:
        preset: an experiment.
        overrides: of its settings.
        card_gb: memory of a GPU, in 10^9 bytes.

    Raises:
        ValueError: if the settings do not fit each other.
    """
    description, found = memory_of_rank(preset, overrides, int(card_gb * _GB))
    total = sum(found.values())
    table = Table(title="each rank", title_justify="left")
    table.add_column("")
    table.add_column("GB", justify="right")
    for name, size in found.items():
        table.add_row(name, f"{size / _GB:.2f}")
    table.add_section()
    table.add_row("in all", f"{total / _GB:.2f}")
    console = Console(width=130)
    console.print(description, highlight=False, soft_wrap=True)
    console.print(table)
    room = card_gb - total / _GB
    verdict = (
        f"fits a GPU of {card_gb:g} GB: {room:.1f} GB are left"
        if room >= 0
        else f"does not fit a GPU of {card_gb:g} GB: {-room:.1f} GB are missing"
    )
    console.print(f"  {verdict}", highlight=False)
