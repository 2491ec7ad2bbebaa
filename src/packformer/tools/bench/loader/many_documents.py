"""``packformer bench loader``: how fast documents become rows, and how full these are."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from packformer.counted import counted
from packformer.data import PackedDataModule, PackingSettings
from packformer.data.order import all_lengths
from packformer.data.packers import make_packer
from packformer.data.packing import PackerState
from packformer.data.source import DataSet, DocumentSource
from packformer.settings import check_whole
from packformer.tools.plan.costs import Lengths

_WARM_UP = 20  # rows


def bench_loader(
    data: DataSet, settings: PackingSettings, num_rows: int, num_workers: Sequence[int]
) -> None:
    """Prints tokens per second of the packer alone, and of the loader with these workers.

    The packer alone has the documents' lengths in memory: of a source without end those that fill
    the rows. The loader's clock starts when it is warm.

    Raises:
        ValueError: if the data or a number cannot be used.
    """
    check_whole("--rows", num_rows, at_least=1)
    for count in num_workers:
        check_whole("--workers", count, at_least=0)
    console = Console(width=120)
    module = PackedDataModule(data, settings)
    console.print(
        f"{module.splits.description}\n{counted(num_rows, 'row')} of "
        f"{counted(settings.row_length, 'token')}, "
        f"documents of at most {settings.max_seqlen:,}, look-ahead of {settings.lookahead:,}",
        highlight=False,
    )
    lengths = _lengths(module.splits.train, num_rows * settings.row_length)
    packer = make_packer(Lengths(lengths), settings, max_documents=settings.row_length, seed=None)
    start = time.perf_counter()
    packed = list(islice(packer.rows(PackerState()), num_rows))
    seconds = time.perf_counter() - start
    tokens = sum(piece.length for row in packed for piece in row)
    fill = tokens / (len(packed) * settings.row_length)
    console.print(
        f"packer alone         {tokens / seconds:>15,.0f} tokens/s   {fill:.2%} full",
        highlight=False,
    )
    warnings.filterwarnings("ignore", "This DataLoader will create")  # they were asked for
    for count in num_workers:
        module = PackedDataModule(data, settings, num_workers=count)
        batches = iter(module.train_dataloader())
        for _ in islice(batches, _WARM_UP):
            pass
        start = time.perf_counter()
        tokens = sum(batch.num_tokens for batch in islice(batches, num_rows))
        rate = tokens / (time.perf_counter() - start)
        name = f"loader, {counted(count, 'worker')}"
        console.print(f"{name:20} {rate:>15,.0f} tokens/s", highlight=False)


def _lengths(source: DocumentSource, most_tokens: int) -> Sequence[int] | NDArray[np.int64]:
    """Lengths of all documents; of an endless source, of the first ones."""
    if source.num_documents is not None:
        return all_lengths(source)
    found: list[int] = []
    while most_tokens > 0:
        found.append(source.length(len(found)))
        most_tokens -= found[-1]
    return found
