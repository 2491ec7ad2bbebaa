"""``packformer bench loader --one-text``: one long text beside the same text in short documents."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import resource
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.table import Table

from packformer.data import PackedDataModule, PackingSettings, TextFiles
from packformer.settings import check_whole

_DOCUMENT = 4096  # bytes
_WARM_UP = 20  # rows
_ROUNDS = 3  # of warm starts, in turns


@dataclass(frozen=True)
class Start:
    """What one start of a loader cost, in a process of its own.

    Attributes:
        seconds: from the files to the first row.
        peak_bytes: resident memory of the process, mapped files included, its helpers left out.
        rate: tokens per second of the rows after it.
    """

    seconds: float
    peak_bytes: int
    rate: float


def bench_one_text(
    megabytes: int, path: Path | None, settings: PackingSettings, vocab_size: int, num_rows: int
) -> None:
    """Prints start, memory and speed of ``data=text`` for a file, and for the same as ``.jsonl``.

    Args:
        megabytes: 10^6 bytes of text.
        path: a text file, repeated to that size; None for the standard library's sources.
        settings: of the rows.
        vocab_size: of the tokenizer that a cold start trains.
        num_rows: measured after each start.

    Raises:
        ValueError: if a number cannot be used or there is no text.
    """
    check_whole("--one-text", megabytes, at_least=1)
    check_whole("--rows", num_rows, at_least=1)
    if path is not None and not path.is_file():
        raise ValueError(f"{path} is no file: give one with text, or none for Python's sources")
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = _text(path, megabytes * 10**6)
        ways = {
            "one text": _write_one(folder, text),
            f"documents of {_DOCUMENT:,} bytes": _write_many(folder, text),
        }
        del text
        colds: dict[str, Start] = {}
        warms: dict[str, list[Start]] = {way: [] for way in ways}

        def start(way: str) -> Start:
            cache = folder / way.replace(" ", "-")
            return _in_a_process(ways[way], cache, settings, vocab_size, num_rows)

        for way in ways:
            colds[way] = start(way)
        for _ in range(_ROUNDS):
            for way in ways:
                warms[way].append(start(way))
    console.print(_table(megabytes, settings, colds, warms))
    one, many = (statistics.median(s.rate for s in found) for found in warms.values())
    console.print(f"  one text: {one / many:.2f} times the speed of short documents")


def _text(path: Path | None, size: int) -> bytes:
    """Text of ``size`` bytes or a few less, repeated where there is not so much."""
    found = bytearray()
    files = [path] if path else sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    for file in files:
        found += file.read_bytes()
    if not found:
        raise ValueError(f"{path or 'the standard library'} holds no text")
    repeated = bytes(found) * (size // len(found) + 1)
    return repeated[:size].decode("utf-8", errors="ignore").encode()


def _write_one(folder: Path, text: bytes) -> Path:
    file = folder / "one.txt"
    file.write_bytes(text)
    return file


def _write_many(folder: Path, text: bytes) -> Path:
    file = folder / "many.jsonl"
    with file.open("w", encoding="utf-8") as stream:
        for piece in _pieces(text):
            stream.write(json.dumps({"text": piece}) + "\n")
    return file


def _pieces(text: bytes) -> Iterator[str]:
    start = 0
    while start < len(text):
        piece = text[start : start + _DOCUMENT].decode("utf-8", errors="ignore")
        start += len(piece.encode())
        yield piece


def _in_a_process(
    file: Path, cache: Path, settings: PackingSettings, vocab_size: int, num_rows: int
) -> Start:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_start, file, cache, settings, vocab_size, num_rows).result()


def _start(
    file: Path, cache: Path, settings: PackingSettings, vocab_size: int, num_rows: int
) -> Start:
    os.environ["PACKFORMER_CACHE"] = str(cache)
    began = time.perf_counter()
    module = PackedDataModule(TextFiles(str(file), vocab_size=vocab_size), settings)
    batches = iter(module.train_dataloader())
    next(batches)
    seconds = time.perf_counter() - began
    for _ in islice(batches, _WARM_UP):
        pass
    began = time.perf_counter()
    tokens = sum(batch.num_tokens for batch in islice(batches, num_rows))
    rate = tokens / (time.perf_counter() - began)
    return Start(seconds, _peak(), rate)


def _peak() -> int:
    """Most resident bytes of this process so far."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux counts the parent's memory in a child's ru_maxrss
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        assert found is not None
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _table(
    megabytes: int,
    settings: PackingSettings,
    colds: dict[str, Start],
    warms: dict[str, list[Start]],
) -> Table:
    table = Table(
        title=f"{megabytes:,} MB of text, rows of {settings.row_length:,} tokens, documents of at "
        f"most {settings.max_seqlen:,}; warm: medians of {_ROUNDS} in turns",
        title_justify="left",
    )
    for column in ("", "start", "to the first row", "peak memory", "tokens/s"):
        table.add_column(column, justify="right" if column else "left")
    for way, cold in colds.items():
        for name, starts in (("cold", [cold]), ("warm", warms[way])):
            seconds, peak, rate = (
                statistics.median(getattr(start, field) for start in starts)
                for field in ("seconds", "peak_bytes", "rate")
            )
            memory = f"{peak / 2**20:,.0f} MiB"
            table.add_row(way, name, f"{seconds:.2f} s", memory, f"{rate:,.0f}")
    return table
