"""Time and memory of packed attention against row length, and of its alternatives."""

from __future__ import annotations

import csv
import gc
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from packformer.attention import KERNELS, PUBLISHED, Kernel, PackedLayout, Scoring
from packformer.attention.packed import variant_of
from packformer.attention.proof import median_milliseconds
from packformer.attention.proof.verdicts import machine
from packformer.model.flops import attended_pairs, attention_flops
from packformer.settings import check_whole
from packformer.tools.bench.attention.peers import CUDA_ONLY, PEERS

VARIANTS = ("plain", "alibi", "window")
_WINDOW = 256
_SECONDS_PER_MEASUREMENT = 0.25
_MOST_REPETITIONS = 20
_FITTED_FROM = 8192  # tokens


@dataclass(frozen=True)
class Bench:
    """What is measured.

    Attributes:
        device_type: ``"cpu"`` or ``"cuda"``.
        dtype: of queries, keys and values.
        num_heads: H.
        num_kv_heads: G.
        head_dim: K.
        tokens: M, row lengths.
        documents: ``"one"`` document a row, or the mean of log-normal lengths, as text.
        longest: of the log-normal lengths, in tokens.
        variants: from ``VARIANTS``.

    Raises:
        ValueError: if a value is out of range.
    """

    device_type: str
    dtype: torch.dtype
    num_heads: int
    num_kv_heads: int
    head_dim: int
    tokens: tuple[int, ...]
    documents: tuple[str, ...]
    longest: int
    variants: tuple[str, ...]

    def __post_init__(self) -> None:
        check_whole("heads", self.num_heads, at_least=1)
        check_whole("kv-heads", self.num_kv_heads, at_least=1)
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"heads ({self.num_heads}) must be divisible by kv-heads ({self.num_kv_heads})"
            )
        for name in ("head_dim", "longest"):
            check_whole(name, getattr(self, name), at_least=1)
        for tokens in self.tokens:
            check_whole("tokens", tokens, at_least=1)
        for documents in self.documents:
            if documents != "one" and not (documents.isdecimal() and int(documents) > 0):
                raise ValueError(f"documents ({documents}) must be `one` or a mean length")
        for variant in self.variants:
            if variant not in VARIANTS:
                raise ValueError(f"variants ({variant}) must be of {', '.join(VARIANTS)}")


def document_lengths(documents: str, tokens: int, longest: int) -> list[int]:
    """Lengths that add up to ``tokens``; log-normal around a mean, the same in every call."""
    if documents == "one":
        return [tokens]
    sigma = 1.0
    mu = math.log(int(documents)) - sigma**2 / 2
    rng, lengths = np.random.default_rng(0), list[int]()
    while (rest := tokens - sum(lengths)) > 0:
        lengths.append(min(max(1, round(rng.lognormal(mu, sigma))), longest, rest))
    return lengths


def run_bench(bench: Bench, folder: Path) -> None:
    """Measures, prints a table, and writes ``attention.csv``, ``time.png`` and ``memory.png``."""
    rows: list[dict[str, Any]] = []
    try:
        for documents in bench.documents:
            for variant in bench.variants:
                for tokens in bench.tokens:
                    rows += _measure(bench, documents, variant, tokens)
                    _write(rows, folder / "attention.csv")
    finally:  # what was measured before an interrupt is shown
        if rows:
            _show(rows, bench, folder)


def _show(rows: list[dict[str, Any]], bench: Bench, folder: Path) -> None:
    console = Console(width=140)
    shape = f"{bench.num_heads}/{bench.num_kv_heads} heads x {bench.head_dim}"
    title = f"{shape}, {str(bench.dtype).removeprefix('torch.')}"
    found = machine(bench.device_type)
    console.print(", ".join(f"{k} {v}" for k, v in found.items() if v), highlight=False)
    _print(rows, title, console)
    _print_growth(rows, console)
    for column, label, name in (
        ("forward_backward_ms", "forward + backward, ms", "time.png"),
        ("extra_mib", "extra memory, MiB", "memory.png"),
    ):
        if any(row[column] for row in rows):
            _draw(rows, column, label, f"{title}, {found.get('gpu') or 'CPU'}", folder / name)
    console.print(f"written to {folder}", soft_wrap=True, markup=False)


def _measure(bench: Bench, documents: str, variant: str, tokens: int) -> list[dict[str, Any]]:
    lengths = document_lengths(documents, tokens, bench.longest)
    layout = PackedLayout.from_lengths(lengths).to(bench.device_type)
    shapes = [(1, tokens, n, bench.head_dim) for n in (bench.num_heads, *[bench.num_kv_heads] * 2)]
    q, k, v = (
        torch.randn(shape, device=bench.device_type, dtype=bench.dtype, requires_grad=True)
        for shape in shapes
    )
    window = _WINDOW if variant == "window" else None
    scoring = Scoring(bench.head_dim**-0.5, window, None, PUBLISHED if variant == "alibi" else None)
    width = bench.num_heads * bench.head_dim
    flops = attention_flops(width * attended_pairs(lengths, window), recomputed=True)
    rows = []
    for name, make in _implementations(bench, q, k, layout, scoring).items():
        row: dict[str, Any] = {
            "documents": documents,
            "variant": variant,
            "tokens": tokens,
            "implementation": name,
        }
        try:
            attend = make()
            row |= _time_and_memory(attend, (q, k, v), bench.device_type)
            row["tflops"] = flops / row["forward_backward_ms"] / 1e9
            row["left_out"] = ""
        except (ValueError, NotImplementedError, RuntimeError) as error:
            row |= dict.fromkeys(("forward_ms", "forward_backward_ms", "extra_mib", "tflops"))
            row["left_out"] = str(error).split("\n")[0][:100]
        rows.append(row)
        torch.compiler.reset()  # each shape compiles anew, and torch stops after a few
        gc.collect()
        if bench.device_type == "cuda":
            torch.cuda.empty_cache()
    return rows


def _implementations(
    bench: Bench, q: Tensor, k: Tensor, layout: PackedLayout, scoring: Scoring
) -> dict[str, Callable[[], Callable[..., Tensor]]]:
    found: dict[str, Callable[[], Callable[..., Tensor]]] = {}
    asked = variant_of(q, k, scoring)
    for kernel in KERNELS.values():
        slow = kernel.name == "reference" or (kernel.name == "sdpa" and asked.device_type == "cuda")
        if not slow and kernel.unsupported(asked) is None:
            found[kernel.name] = partial(_bound, kernel, layout, scoring)
    for name, peer in PEERS.items():
        if bench.device_type == "cuda" or name not in CUDA_ONLY:
            found[name] = partial(peer, layout, scoring.slopes(q), scoring.window)
    return found


def _bound(kernel: Kernel, layout: PackedLayout, scoring: Scoring) -> Callable[..., Tensor]:
    block_mask = kernel.block_mask(layout, scoring.window)
    return lambda q, k, v: kernel.run(q, k, v, layout, scoring, block_mask)


def _time_and_memory(
    attend: Callable[..., Tensor], leaves: tuple[Tensor, ...], device_type: str
) -> dict[str, float | None]:
    grad = torch.randn_like(leaves[0])

    def forward() -> None:
        with torch.no_grad():
            attend(*leaves)

    def both() -> None:
        torch.autograd.grad(attend(*leaves), leaves, grad)

    both()  # compiles
    extra = None
    if device_type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        both()
        torch.cuda.synchronize()
        extra = (torch.cuda.max_memory_allocated() - before) / 2**20
    once = median_milliseconds(both, device_type, 1)
    repetitions = int(min(_MOST_REPETITIONS, max(2, _SECONDS_PER_MEASUREMENT / once * 1e3)))
    return {
        "forward_ms": median_milliseconds(forward, device_type, repetitions),
        "forward_backward_ms": median_milliseconds(both, device_type, repetitions),
        "extra_mib": extra,
    }


def _write(rows: list[dict[str, Any]], file: Path) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(
            {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows
        )


def _print(rows: list[dict[str, Any]], title: str, console: Console) -> None:
    table = Table(title=title, title_justify="left")
    for name in ("documents", "variant", "tokens", "implementation"):
        table.add_column(name, justify="right" if name == "tokens" else "left")
    for name in ("forward ms", "fwd + bwd ms", "TFLOP/s", "extra MiB"):
        table.add_column(name, justify="right")
    table.add_column("left out", overflow="fold")
    for row in rows:
        numbers = [
            "" if row[name] is None else f"{row[name]:,.{digits}f}"
            for name, digits in (
                ("forward_ms", 3),
                ("forward_backward_ms", 3),
                ("tflops", 0 if row["tflops"] and row["tflops"] >= 10 else 2),
                ("extra_mib", 1),
            )
        ]
        table.add_row(
            row["documents"],
            row["variant"],
            f"{row['tokens']:,}",
            row["implementation"],
            *numbers,
            row["left_out"],
        )
    console.print(table)


def _print_growth(rows: list[dict[str, Any]], console: Console) -> None:
    """Memory against tokens: the exponent of a power law, fitted over the longer rows."""
    for documents, variant, name in dict.fromkeys(
        (row["documents"], row["variant"], row["implementation"]) for row in rows
    ):
        points = [
            (math.log(row["tokens"]), math.log(row["extra_mib"]))
            for row in rows
            if (row["documents"], row["variant"], row["implementation"])
            == (documents, variant, name)
            and row["tokens"] >= _FITTED_FROM
            and row["extra_mib"]
        ]
        if len(points) > 1:
            exponent = statistics.linear_regression(*zip(*points, strict=True)).slope
            console.print(
                f"{name}, {variant}, documents {documents}: memory grows with tokens to the power "
                f"of {exponent:.3f} (from {_FITTED_FROM:,})",
                highlight=False,
            )


def _draw(rows: list[dict[str, Any]], column: str, label: str, title: str, file: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys((row["documents"], row["variant"]) for row in rows))
    names = list(dict.fromkeys(row["implementation"] for row in rows))
    figure = Figure(figsize=(4.2 * len(panels), 3.8), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (documents, variant) in zip(all_axes, panels, strict=True):
        for number, name in enumerate(names):
            points = [
                (row["tokens"], row[column])
                for row in rows
                if (row["documents"], row["variant"], row["implementation"])
                == (documents, variant, name)
                and row[column]
            ]
            if points:
                ours = name in KERNELS
                axes.loglog(
                    *zip(*points, strict=True),
                    marker="o" if ours else "x",
                    linestyle="-" if ours else "--",
                    color=f"C{number}",
                    label=name,
                    base=2,
                )
        kind = "one document" if documents == "one" else f"documents of {documents} on average"
        axes.set_title(f"{variant}, {kind}", fontsize=10)
        axes.set_xlabel("tokens of the row")
        axes.grid(alpha=0.3)
    all_axes[0].set_ylabel(label)
    handles = {
        text: handle
        for axes in all_axes
        for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=6, fontsize=9)
    figure.suptitle(title, fontsize=11)
    canvas.print_png(file)
