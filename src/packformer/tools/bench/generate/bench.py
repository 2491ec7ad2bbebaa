"""How fast a preset writes, beside what its step must read and beside transformers."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from packformer.attention.proof import median_milliseconds
from packformer.attention.proof.verdicts import machine
from packformer.command_line.composition import compose
from packformer.generation import Generation, Report
from packformer.huggingface import export
from packformer.model import GPT
from packformer.run.build import build_data, build_model
from packformer.run.device import resolve_accelerator
from packformer.settings import check_whole
from packformer.tools.bench.step.measure import fresh, shown, write_csv


@dataclass(frozen=True)
class GenerateBench:
    """What is measured.

    Attributes:
        preset: an experiment; its model has random weights.
        overrides: of its settings.
        prompts: continued together.
        shortest: prompt, in tokens; the lengths are evenly spread.
        longest: prompt, in tokens.
        new_tokens: for each prompt.
        repeats: of which the median counts; one more comes before them.
        peers: measure transformers too.

    Raises:
        ValueError: if a number is out of range.
    """

    preset: str
    overrides: tuple[str, ...] = ()
    prompts: int = 64
    shortest: int = 16
    longest: int = 2048
    new_tokens: int = 256
    repeats: int = 3
    peers: bool = True

    def __post_init__(self) -> None:
        for name in ("prompts", "shortest", "repeats"):
            check_whole(name, getattr(self, name), at_least=1)
        check_whole("longest", self.longest, at_least=self.shortest)
        check_whole("new_tokens", self.new_tokens, at_least=2)

    def lengths(self) -> list[int]:
        """Of the prompts, ascending."""
        return torch.linspace(self.shortest, self.longest, self.prompts).round().int().tolist()


@dataclass(frozen=True)
class Speed:
    """One way to write the same number of tokens.

    Attributes:
        name: of the way.
        tokens_per_second: new tokens over the whole time, prompts included.
        first_token_ms: until every prompt had its first new token; None if not known.
        step_ms: a replayed step, one new token of all prompts; None if not known.
        floor_ms: that reading the weights and the mean cache takes, at the speed of a copy; None
            where no GPU was measured.
        cache_bytes: keys and values; None if not known.
        cache_bytes_per_token: of all layers together; None if not known.
        peak_gib: of GPU memory; None on a CPU.
        left_out: why there are no numbers.
    """

    name: str
    tokens_per_second: float | None = None
    first_token_ms: float | None = None
    step_ms: float | None = None
    floor_ms: float | None = None
    cache_bytes: int | None = None
    cache_bytes_per_token: float | None = None
    peak_gib: float | None = None
    left_out: str = ""


def run_generate_bench(bench: GenerateBench, folder: Path) -> None:
    """Measures, prints, and writes ``generate.csv``."""
    config = compose([f"+experiment={bench.preset}", "data=random", *bench.overrides])
    device = resolve_accelerator(config.trainer.accelerator)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(config.seed)
    model = build_model(config, build_data(config)).to(device, dtype).eval()
    prompts = [torch.randint(model.vocab_size, (n,)).tolist() for n in bench.lengths()]
    floor = _floor_ms(model, bench) if device == "cuda" else None
    errors = Console(stderr=True)
    speeds = []
    ways = {"packformer": False, "packformer, compiled": True}
    for name, compiled in ways.items():
        errors.print(f"measuring {name}", highlight=False)
        speeds.append(_ours(name, model, prompts, bench, floor, compiled=compiled))
    if bench.peers:
        errors.print("measuring transformers", highlight=False)
        speeds.append(_transformers(model, prompts, bench))
    console = Console(width=150)
    found = machine(device)
    console.print(", ".join(f"{k} {v}" for k, v in found.items() if v), highlight=False)
    _print(speeds, bench, model, console)
    write_csv(speeds, folder / "generate.csv")
    console.print(f"written to {folder}", soft_wrap=True, markup=False)


def _floor_ms(model: GPT, bench: GenerateBench) -> float:
    """What the step halfway must read, at the speed of a copy."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    milliseconds = median_milliseconds(lambda: target.copy_(source), "cuda", 20)
    bytes_per_ms = 2 * source.numel() / milliseconds
    read = sum(p.numel() * p.element_size() for p in model.parameters())
    read += sum(model.kv_cache_bytes(n + bench.new_tokens // 2) for n in bench.lengths())
    return read / bytes_per_ms


def _ours(
    name: str,
    model: GPT,
    prompts: Sequence[Sequence[int]],
    bench: GenerateBench,
    floor: float | None,
    *,
    compiled: bool,
) -> Speed:
    device = model.embedding.weight.device.type
    reports: list[Report] = []
    with fresh(device):
        for _ in range(1 + bench.repeats):
            steps = Generation(
                model, prompts, max_new_tokens=bench.new_tokens, compiled=compiled, watched=False
            )
            for _ in steps:
                pass
            reports.append(steps.report)
            del steps
        peak = _peak_gib(device)
    warm = reports[1:]
    capacity = sum(map(len, prompts)) + len(prompts) * (bench.new_tokens - 1)
    cache = warm[0].cache_bytes
    return Speed(
        name,
        tokens_per_second=statistics.median(r.tokens_per_second for r in warm),
        first_token_ms=1e3 * statistics.median(r.first_token_seconds for r in warm),
        step_ms=1e3 * statistics.median(r.step_seconds for r in warm),
        floor_ms=floor,
        cache_bytes=cache,
        cache_bytes_per_token=cache / capacity,
        peak_gib=peak,
    )


def _transformers(model: GPT, prompts: Sequence[Sequence[int]], bench: GenerateBench) -> Speed:
    """With a static cache, which transformers compiles on a GPU; prompts are padded on the left."""
    name, device = "transformers, static cache", model.embedding.weight.device.type
    try:
        with fresh(device), _in_transformers(model) as theirs:
            write = _their_way(theirs, prompts, bench.new_tokens)
            seconds = []
            for _ in range(1 + bench.repeats):
                start = time.perf_counter()
                write()
                seconds.append(time.perf_counter() - start)
            peak = _peak_gib(device)
    except (ImportError, ValueError, RuntimeError) as error:
        return Speed(name, left_out=str(error).split("\n")[0][:100] or type(error).__name__)
    new = len(prompts) * bench.new_tokens
    return Speed(name, tokens_per_second=new / statistics.median(seconds[1:]), peak_gib=peak)


@contextmanager
def _in_transformers(model: GPT) -> Iterator[Any]:
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        export(model, None, Path(folder) / "exported")
        theirs = AutoModelForCausalLM.from_pretrained(
            Path(folder) / "exported", dtype=model.embedding.weight.dtype, local_files_only=True
        )
        yield theirs.to(model.embedding.weight.device).eval()


def _their_way(theirs: Any, prompts: Sequence[Sequence[int]], new: int) -> Callable[[], None]:
    longest = max(map(len, prompts))
    padded = torch.tensor([[0] * (longest - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    device = theirs.device

    def write() -> None:
        out = theirs.generate(
            input_ids=padded.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            pad_token_id=0,
            cache_implementation="static",
        )
        assert out.shape[1] == longest + new
        out.cpu()

    return write


def _peak_gib(device: str) -> float | None:
    return torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None


def _print(speeds: Sequence[Speed], bench: GenerateBench, model: GPT, console: Console) -> None:
    lengths = bench.lengths()
    table = Table(
        title=f"{bench.preset} {' '.join(bench.overrides)}: {model.num_parameters():,} parameters, "
        f"{bench.prompts} prompts of {lengths[0]:,} to {lengths[-1]:,} tokens, "
        f"{bench.new_tokens} new ones each",
        title_justify="left",
    )
    table.add_column("")
    columns = ("tokens/s", "ratio", "first token ms", "step ms", "floor ms", "step/floor")
    for column in (*columns, "cache GiB", "bytes/token", "peak GiB"):
        table.add_column(column, justify="right")
    table.add_column("left out", overflow="fold")
    first = speeds[0].tokens_per_second
    for speed in speeds:
        rate, step, floor = speed.tokens_per_second, speed.step_ms, speed.floor_ms
        cache = speed.cache_bytes
        table.add_row(
            speed.name,
            shown(rate, ",.0f"),
            shown(rate / first if rate and first else None, ".2f"),
            shown(speed.first_token_ms, ".0f"),
            shown(step, ".2f"),
            shown(floor, ".2f"),
            shown(step / floor if step and floor else None, ".2f"),
            shown(cache / 2**30 if cache else None, ".3f"),
            shown(speed.cache_bytes_per_token, ",.0f"),
            shown(speed.peak_gib, ".2f"),
            speed.left_out,
        )
    console.print(table)
