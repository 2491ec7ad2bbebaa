"""Where a GPU's time goes in a training step, and how near each part is to its limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.autograd import DeviceType  # type: ignore[attr-defined]

from packformer.attention.proof import median_milliseconds
from packformer.model.flops import attention_flops, product_flops
from packformer.tools.bench.step.measure import shown


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
    "elementwise": (
        "triton",
        "elementwise",
        "reduce",
        "vectorized",
        "rms",
        "silu",
        "gate_gradient",
    ),
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
    products: int,
    width: int,
    num_layers: int,
    hidden_width: int,
    vocab_size: int,
    rotated_width: float,
    matrix_weights: int,
    parameters: int,
    flops_per_second: float,
    bytes_per_second: float,
    residual_bytes: int = 4,
) -> dict[str, float]:
    """Milliseconds that each group needs at least, at the rates measured on this device.

    Products and attention: their flops, those of scores that the backward computes anew included.
    Loss: 2-byte logits read twice, their gradient written. Optimizer: 28 bytes per parameter for
    AdamW (weights and two moments read and written, gradients read), 8 for clipping: gradients
    read, and written scaled.
    Elementwise: what is between the products, each activation read and written once, residuals of r
    bytes and 2-byte rest, backward twice the forward: per token and layer 2 norms (r + 2 bytes per
    dimension), 2 additions (r + 2 + r), the rotation of queries and keys (2 + 2), the gate (2 + 2 +
    2 per hidden dimension).
    """
    product = product_flops(matrix_weights, num_tokens) / flops_per_second
    attention = attention_flops(products, recomputed=True) / flops_per_second
    loss = 3 * 2 * num_tokens * vocab_size / bytes_per_second
    optimizer = (28 + 8) * parameters / bytes_per_second
    r = residual_bytes
    per_layer = width * (2 * (r + 2) + 2 * (2 * r + 2)) + 4 * rotated_width + 6 * hidden_width
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
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))
    product = median_milliseconds(lambda: a @ b, "cuda", 20)
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copy = median_milliseconds(lambda: target.copy_(source), "cuda", 20)
    return 2 * 8192**3 / product * 1e3, 2 * 2**30 / copy * 1e3


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
        groups.add_row(group, f"{spent:.2f}", shown(limit, ".2f"), shown(ratio, ".2f"))
    groups.add_row("all", f"{sum(k.milliseconds for k in kernels):.2f}", "", "")
    console.print(groups)
