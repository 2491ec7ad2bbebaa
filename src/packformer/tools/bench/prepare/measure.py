"""``packformer prepare`` beside the bare tokenizer, on the same text and cores."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from tokenizers import Tokenizer

from packformer.corpus import Preparation, prepare
from packformer.corpus.documents import text_of
from packformer.corpus.shards import TOKENIZER
from packformer.counted import counted
from packformer.settings import check_whole

_BATCH = 1000  # texts


def bench_prepare(preparation: Preparation, rounds: int) -> None:
    """Prints MB of text per second: of the tokenizer alone, and of the whole preparation.

    The tokenizer alone has all texts in memory, encodes batches of them with its own threads on as
    many cores as there are workers, and drops the result. Both take turns; medians.

    Args:
        preparation: of a text that fits in memory.
        rounds: of each.

    Raises:
        ValueError: if the input cannot be read.
    """
    check_whole("--rounds", rounds, at_least=1)
    console = Console(width=120)
    source = preparation.input
    raws = (raw for name in source.sources() for raw in source.read(name))
    texts = [text for raw in raws if (text := text_of(raw, source.field))]
    size = sum(len(text.encode()) for text in texts)
    os.environ["RAYON_NUM_THREADS"] = str(preparation.workers)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    with tempfile.TemporaryDirectory() as folder:
        first = replace(preparation, output=Path(folder) / "first")
        prepare(first)
        given = first.output / TOKENIZER
        tokenizer = Tokenizer.from_file(str(given))
        bare, whole = [], []
        for number in range(rounds):
            bare.append(size / _seconds(lambda: _encode(tokenizer, texts)))
            output = Path(folder) / str(number)
            again = replace(preparation, output=output, tokenizer=given)
            whole.append(size / _seconds(lambda again=again: prepare(again)))  # type: ignore[misc]
    a, b = statistics.median(bare), statistics.median(whole)
    console.print(
        f"{counted(len(texts), 'document')}, {size / 1e6:,.1f} MB, "
        f"{counted(preparation.workers, 'process', 'processes')}, {counted(rounds, 'round')}\n"
        f"tokenizers alone   {a / 1e6:>8.2f} MB/s\n"
        f"packformer prepare {b / 1e6:>8.2f} MB/s   {b / a:.0%}",
        highlight=False,
    )


def _encode(tokenizer: Tokenizer, texts: list[str]) -> None:
    for start in range(0, len(texts), _BATCH):
        tokenizer.encode_batch_fast(texts[start : start + _BATCH], add_special_tokens=False)


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
