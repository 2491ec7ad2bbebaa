"""Speed and memory of training steps, and where the time of a GPU goes."""

from __future__ import annotations

import csv
import gc
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.autograd import DeviceType  # type: ignore[attr-defined]


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
        left_out: why it was not measured; empty if it was.
    """

    name: str
    milliseconds: float | None = None
    tokens_per_second: float | None = None
    utilisation: float | None = None
    peak_gib: float | None = None
    first_step_seconds: float | None = None
    left_out: str = ""


class Clock:
    """Times of steps, taken on the device: the host is not made to wait.

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
    """Nothing compiled or allocated before is left."""
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
    profile: list[KernelTime] | None = None,
) -> Speed:
    """Runs ``warmup`` and ``steps`` steps of what ``make`` makes.

    Args:
        name: of this way to train.
        make: builds the model and returns a function that takes one step.
        device_type: ``"cpu"`` or ``"cuda"``.
        steps: measured.
        warmup: before them.
        peak_flops: of the device, per second.
        profile: receives what the GPU did in three further steps.
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
            if profile is not None and device_type == "cuda":
                profile += profile_kernels(step)
        except (ImportError, ValueError, RuntimeError, NotImplementedError) as error:
            return Speed(name, left_out=str(error).split("\n")[0][:100] or type(error).__name__)
        return speed


@dataclass(frozen=True)
class KernelTime:
    """A GPU kernel's share of a step.

    Attributes:
        kernel: its name.
        group: what it is for, from ``GROUPS``.
        milliseconds: per step.
        calls: per step.
    """

    kernel: str
    group: str
    milliseconds: float
    calls: float


# The first group one of whose words the kernel's name holds. The words of inductor's names are
# those of the operations that were fused.
_WORDS: dict[str, tuple[str, ...]] = {
    "attention": ("flash", "fmha", "flex", "attention"),
    "optimizer": ("adam", "multi_tensor", "lpnorm", "foreach"),
    "loss": ("nll", "log_softmax", "softmax", "cross_entropy", "logsumexp"),
    "products": ("gemm", "nvjet", "cutlass", "xmma", "cublas", "splitk", "triton_tem"),
    "elementwise": ("triton", "elementwise", "reduce", "vectorized", "rms", "silu"),
    "copies": ("memcpy", "memset", "copy", "cat"),
}
GROUPS = (*_WORDS, "other")


def group_of(kernel: str) -> str:
    """What a kernel is for, by its name; ``"other"`` if that says nothing."""
    name = kernel.lower()
    return next((g for g, words in _WORDS.items() if any(w in name for w in words)), "other")


def profile_kernels(step: Callable[[], Any], count: int = 3) -> list[KernelTime]:
    """Time of each GPU kernel per step, the costliest first."""
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(count):
            step()
        torch.cuda.synchronize()
    totals: dict[str, tuple[float, int]] = {}
    for event in profiler.events():
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation:
            microseconds, calls = totals.get(event.name, (0.0, 0))
            totals[event.name] = (microseconds + event.self_device_time_total, calls + 1)
    times = [
        KernelTime(name, group_of(name), microseconds / 1e3 / count, calls / count)
        for name, (microseconds, calls) in totals.items()
    ]
    return sorted(times, key=lambda kernel: -kernel.milliseconds)


def group_limits(
    *,
    num_tokens: int,
    pairs: float,
    width: int,
    num_layers: int,
    hidden_width: int,
    vocab_size: int,
    kv_share: float,
    matrix_weights: int,
    parameters: int,
    flops_per_second: float,
    bytes_per_second: float,
) -> dict[str, float]:
    """Milliseconds that each group needs at least, at the rates measured on this device.

    Products: 6 flops per matrix weight and token. Attention: 14 flops per query-key pair, layer and
    dimension of the width: two products forward, five backward. Loss: 2-byte logits read twice,
    their gradient written. Optimizer: 28 bytes per parameter for AdamW (weights and two moments
    read and written, gradients read), 12 for clipping. Elementwise: what is between the products,
    each activation read and written once, float32 residuals and 2-byte rest, backward twice the
    forward: per token and layer 2 norms (4 + 2 bytes per dimension), 2 additions (4 + 2 + 4), the
    rotation of queries and keys (2 + 2), the gate (2 + 2 + 2 per hidden dimension).
    """
    product = 6 * matrix_weights * num_tokens / flops_per_second
    attention = 14 * pairs * width * num_layers / flops_per_second
    loss = 3 * 2 * num_tokens * vocab_size / bytes_per_second
    optimizer = (28 + 12) * parameters / bytes_per_second
    per_layer = width * (2 * 6 + 2 * 10 + 4 * (1 + kv_share)) + 6 * hidden_width
    elementwise = 3 * num_tokens * num_layers * per_layer / bytes_per_second
    return {
        "attention": 1e3 * attention,
        "optimizer": 1e3 * optimizer,
        "loss": 1e3 * loss,
        "products": 1e3 * product,
        "elementwise": 1e3 * elementwise,
    }


def measured_rates(dtype: torch.dtype) -> tuple[float, float]:
    """Flops per second of a matrix product of 8192, and bytes per second of a copy, on the GPU."""
    from packformer.attention.proof import median_milliseconds

    a, b = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))
    product = median_milliseconds(lambda: a @ b, "cuda", 20)
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copy = median_milliseconds(lambda: target.copy_(source), "cuda", 20)
    return 2 * 8192**3 / product * 1e3, 2 * 2**30 / copy * 1e3


def print_speeds(speeds: Sequence[Speed], title: str, console: Console) -> None:
    """Prints a table, each speed beside the first."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in ("ms/step", "tokens/s", "ratio", "MFU", "peak GiB", "first step s"):
        table.add_column(column, justify="right")
    table.add_column("left out", overflow="fold")
    first = next((s.tokens_per_second for s in speeds if s.tokens_per_second), None)
    for speed in speeds:
        rate = speed.tokens_per_second
        table.add_row(
            speed.name,
            _shown(speed.milliseconds, ".2f"),
            _shown(rate, ",.0f"),
            _shown(rate / first if rate and first else None, ".2f"),
            _shown(speed.utilisation, ".1%"),
            _shown(speed.peak_gib, ".2f"),
            _shown(speed.first_step_seconds, ".1f"),
            speed.left_out,
        )
    console.print(table)


def print_profile(
    kernels: Sequence[KernelTime], limits: dict[str, float], console: Console, most: int = 20
) -> None:
    """Prints the costliest kernels, and each group beside its limit."""
    table = Table(title=f"the {most} costliest kernels of a step", title_justify="left")
    table.add_column("kernel", no_wrap=True, max_width=80)
    table.add_column("group")
    table.add_column("ms", justify="right")
    table.add_column("calls", justify="right")
    for kernel in kernels[:most]:
        table.add_row(
            kernel.kernel, kernel.group, f"{kernel.milliseconds:.3f}", f"{kernel.calls:.0f}"
        )
    console.print(table)
    groups = Table(title="by what they do", title_justify="left")
    for column in ("group", "ms", "limit ms", "times the limit"):
        groups.add_column(column, justify="left" if column == "group" else "right")
    for group in GROUPS:
        spent = sum(k.milliseconds for k in kernels if k.group == group)
        limit = limits.get(group)
        ratio = spent / limit if limit and spent else None
        groups.add_row(group, f"{spent:.2f}", _shown(limit, ".2f"), _shown(ratio, ".2f"))
    groups.add_row("all", f"{sum(k.milliseconds for k in kernels):.2f}", "", "")
    console.print(groups)


def _shown(value: float | None, form: str) -> str:
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
    figure = Figure(figsize=(8, 0.9 + 0.42 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
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
    axes.set_title(title, fontsize=10)
    figure.savefig(file, dpi=150)


def matrix_weights(model: nn.Module) -> int:
    """Weights of all linear layers, the head included."""
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
