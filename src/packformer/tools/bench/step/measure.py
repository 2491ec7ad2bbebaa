"""Speed and memory of training steps."""

from __future__ import annotations

import csv
import gc
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table


class Work(NamedTuple):
    """What one step did.

    Attributes:
        tokens: counted in the loss.
        flops: that the true documents need, see ``training_flops``; 0 if not known.
    """

    tokens: int
    flops: int = 0


@dataclass(frozen=True)
class Speed:
    """What was measured of one way to train.

    Attributes:
        name: of the way.
        milliseconds: of a step, median.
        tokens_per_second: counted tokens, median over the steps.
        utilisation: flops that the true documents need, by the device's peak; None if not known.
        peak_gib: memory at most, GiB; None on CPU.
        first_step_seconds: until the first step was done, compilation included.
        data_wait: share of the time spent waiting for data, at most; None if not known.
        left_out: why it was not measured; empty if it was.
        differs: how its model is another than ours; empty if it is the same.
    """

    name: str
    milliseconds: float | None = None
    tokens_per_second: float | None = None
    utilisation: float | None = None
    peak_gib: float | None = None
    first_step_seconds: float | None = None
    data_wait: float | None = None
    left_out: str = ""
    differs: str = ""


class Clock:
    """Times of steps, taken on the device without making the host wait.

    Args:
        device_type: ``"cpu"`` or ``"cuda"``.
    """

    def __init__(self, device_type: str) -> None:
        self._on_gpu = device_type == "cuda"
        self._marks: list[Any] = []

    def mark(self) -> None:
        """Ends a step, and begins the next."""
        if self._on_gpu:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Of each step between two marks."""
        if self._on_gpu:
            torch.cuda.synchronize()
        pairs = zip(self._marks, self._marks[1:], strict=False)
        return [a.elapsed_time(b) / 1e3 if self._on_gpu else b - a for a, b in pairs]


def speed_of(
    name: str,
    seconds: Sequence[float],
    work: Sequence[Work],
    first_step_seconds: float,
    device_type: str,
    peak_flops: float | None,
) -> Speed:
    """From times and work of the same steps."""
    total = sum(w.flops for w in work)
    on_gpu = device_type == "cuda"
    return Speed(
        name=name,
        milliseconds=1e3 * statistics.median(seconds),
        tokens_per_second=statistics.median(
            w.tokens / s for w, s in zip(work, seconds, strict=True)
        ),
        utilisation=total / sum(seconds) / peak_flops if peak_flops and total else None,
        peak_gib=torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None,
        first_step_seconds=first_step_seconds,
    )


@contextmanager
def fresh(device_type: str) -> Iterator[None]:
    """Drops everything compiled or allocated before."""
    torch.compiler.reset()
    gc.collect()
    if device_type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    yield
    gc.collect()


def measure(
    name: str,
    make: Callable[[], Callable[[], Work]],
    *,
    device_type: str,
    steps: int,
    warmup: int,
    peak_flops: float | None = None,
    also: Callable[[Callable[[], Work]], None] = lambda step: None,
) -> Speed:
    """Runs ``warmup`` and ``steps`` steps of what ``make`` makes.

    Args:
        name: of this way to train.
        make: builds the model and returns a function that takes one step.
        device_type: ``"cpu"`` or ``"cuda"``.
        steps: measured.
        warmup: before them.
        peak_flops: of the device, per second.
        also: called with the step at the end.
    """
    with fresh(device_type):
        start = time.perf_counter()
        try:
            step = make()
            step()
            if device_type == "cuda":
                torch.cuda.synchronize()
            first = time.perf_counter() - start
            for _ in range(warmup):
                step()
            clock, work = Clock(device_type), []
            clock.mark()
            for _ in range(steps):
                work.append(step())
                clock.mark()
            speed = speed_of(name, clock.seconds(), work, first, device_type, peak_flops)
            also(step)
        except Exception as error:  # another library may fail in any way: the rest is still shown
            return Speed(name, left_out=_reason(error))
        return speed


def _reason(error: Exception) -> str:
    """The first line of its message, after its type if it is not one that is meant to be read."""
    first = str(error).split("\n")[0]
    readable = first and isinstance(error, ImportError | ValueError | RuntimeError)
    return (first if readable else f"{type(error).__name__}: {first}".rstrip(": "))[:100]


def print_speeds(speeds: Sequence[Speed], title: str, console: Console) -> None:
    """Prints a table, each speed beside the first."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in ("ms/step", "tokens/s", "ratio", "MFU", "peak GiB", "first step s", "data wait"):
        table.add_column(column, justify="right")
    table.add_column("left out", overflow="fold")
    some_differ = any(speed.differs for speed in speeds)
    if some_differ:
        table.add_column("another model", overflow="fold")
    first = next((s.tokens_per_second for s in speeds if s.tokens_per_second), None)
    for speed in speeds:
        rate = speed.tokens_per_second
        table.add_row(
            speed.name,
            shown(speed.milliseconds, ".2f"),
            shown(rate, ",.0f"),
            shown(rate / first if rate and first else None, ".2f"),
            shown(speed.utilisation, ".1%"),
            shown(speed.peak_gib, ".2f"),
            shown(speed.first_step_seconds, ".1f"),
            shown(speed.data_wait, ".2%"),
            speed.left_out,
            *([speed.differs] if some_differ else []),
        )
    console.print(table)


def shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def write_csv(rows: Iterable[Any], file: Path) -> None:
    """One line per dataclass."""
    lines = [asdict(row) for row in rows]
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def draw_speeds(speeds: Sequence[Speed], title: str, file: Path) -> None:
    """Bars of tokens per second."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [s for s in reversed(speeds) if s.tokens_per_second is not None]
    figure = Figure(figsize=(8, 1.3 + 0.42 * len(shown)), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    rates = [s.tokens_per_second or 0.0 for s in shown]
    ours = [s.name.startswith("packformer") for s in shown]
    bars = axes.barh(
        [s.name for s in shown], rates, color=["C0" if own else "0.65" for own in ours]
    )
    axes.bar_label(bars, [f"{rate:,.0f}" for rate in rates], padding=3, fontsize=9)
    axes.set_xlim(0, 1.15 * max(rates))
    axes.set_xlabel("counted tokens per second")
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    figure.suptitle("\n".join(wrap(title, 90)), fontsize=10)
    canvas.print_png(file)
