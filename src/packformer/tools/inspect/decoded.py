"""``packformer inspect``: what is in a corpus of token shards, and in the rows made of it."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.text import Text
from tokenizers import Tokenizer

from packformer.batch import IGNORE_INDEX, PackedBatch
from packformer.corpus.manifest_reading import read_manifest
from packformer.corpus.prepared import corpus_at
from packformer.corpus.shards import MANIFEST, totals
from packformer.counted import counted
from packformer.data import PackingSettings, TokenShards
from packformer.data.packers import make_packer
from packformer.data.packing import PackerState
from packformer.data.rows import collate_row
from packformer.data.source import DataSplits, DocumentSource
from packformer.tools.inspect import check_number

_COLORS = ("cyan", "yellow", "green", "magenta", "blue")
_TOKENS_SHOWN = 12
_TOKENS_PER_CHARACTER = 4  # at most, where each is a byte of UTF-8


def inspect_documents(path: str, split: str, first: int, count: int, characters: int) -> None:
    """Prints the corpus's manifest, then documents, decoded.

    Args:
        path: folder or URL of the corpus.
        split: ``train`` or ``validation``.
        first: number of the first document.
        count: of documents.
        characters: of each, at most.

    Raises:
        ValueError: if the corpus cannot be read or there is no such document.
    """
    console = Console()
    splits, source = _open(path, split)
    total = source.num_documents or 0
    check_number(first, total, split)
    _print_manifest(path, console)
    tokenizer = Tokenizer.from_file(str(splits.tokenizer))
    for index in range(first, min(total, first + count)):
        length = source.length(index)
        tokens, _ = source.piece(index, 0, min(length, _TOKENS_PER_CHARACTER * (characters + 1)))
        text = tokenizer.decode(tokens.tolist(), skip_special_tokens=False)
        console.rule(f"{split} document {index:,}: {counted(length, 'token')}", align="left")
        whole = len(tokens) == length and len(text) <= characters
        shown = text if whole else f"{text[:characters]} ..."
        console.print(Text(shown), soft_wrap=True)


def inspect_row(
    path: str, split: str, settings: PackingSettings, number: int, seed: int, characters: int
) -> None:
    """Prints a packed row: its documents, where they lie, and what is predicted of them.

    Args:
        path: folder or URL of the corpus.
        split: ``train`` or ``validation``.
        settings: how rows are packed.
        number: of the row, a whole number from 0 on.
        seed: of the order.
        characters: of each document, at most.

    Raises:
        ValueError: if the corpus cannot be read or has no such row.
    """
    console = Console()
    splits, source = _open(path, split)
    packer = make_packer(source, settings, max_documents=settings.row_length, seed=seed, epochs=1)
    count, pieces = 0, None
    for count, row in enumerate(packer.rows(PackerState()), 1):
        if count > number:
            pieces = row
            break
    if pieces is None:
        raise ValueError(
            f"row {number} does not exist: one pass over {split} has {counted(count, 'row')}, "
            "numbered from 0"
        )
    batch = collate_row(
        source,
        pieces,
        row_length=settings.row_length,
        max_seqlen=settings.max_seqlen,
        max_documents=settings.row_length,
        block_length=settings.block_length,
        packer_state={},
    )
    unit = "document" if settings.block_length is None else "block"
    _print_row(batch, unit, Tokenizer.from_file(str(splits.tokenizer)), number, characters, console)


def _open(path: str, split: str) -> tuple[DataSplits, DocumentSource]:
    splits = TokenShards(path).prepare()
    return splits, splits.train if split == "train" else splits.validation


def _print_manifest(path: str, console: Console) -> None:
    file = Path(corpus_at(path)).expanduser() / MANIFEST
    if not file.is_file():
        return
    manifest = read_manifest(file)
    for name, shards in (("train", manifest.train), ("validation", manifest.validation)):
        found = totals(shards)
        console.print(
            f"{name:10} {counted(found['documents'], 'document')}, "
            f"{counted(found['tokens'], 'token')}, "
            f"{counted(found['text_bytes'], 'byte')} of text, {counted(len(shards), 'shard')}",
            highlight=False,
        )
    console.print(
        f"vocabulary {manifest.vocab_size:,}, {manifest.dtype}, "
        f"{manifest.left_out or 'nothing left out'}",
        highlight=False,
    )


def _print_row(
    batch: PackedBatch,
    unit: str,
    tokenizer: Tokenizer,
    number: int,
    characters: int,
    console: Console,
) -> None:
    length = batch.tokens.shape[1]
    console.print(
        f"row {number}: {counted(length, 'token')}, {counted(len(batch.lengths), unit)}, "
        f"{batch.num_tokens / length:.2%} full, {counted(batch.num_targets, 'target')}",
        highlight=False,
    )
    start = 0
    tokens, targets = batch.tokens[0].tolist(), batch.targets[0].tolist()
    for place, size in enumerate(batch.lengths):
        part = slice(start, start + size)
        color = _COLORS[place % len(_COLORS)]
        predicted = sum(target != IGNORE_INDEX for target in targets[part])
        console.rule(
            f"tokens {start:,} to {start + size - 1:,}: {size:,}, of which {predicted:,} predict",
            align="left",
            style=color,
        )
        text = tokenizer.decode(tokens[part], skip_special_tokens=False)
        shown = text if len(text) <= characters else f"{text[:characters]} ..."
        console.print(Text(shown, style=color), soft_wrap=True)
        pairs = [
            f"{tokenizer.decode([a], skip_special_tokens=False)!r} → "
            + ("nothing" if b == IGNORE_INDEX else repr(tokenizer.decode([b], False)))
            for a, b in list(zip(tokens[part], targets[part], strict=True))
        ]
        if len(pairs) > _TOKENS_SHOWN:
            half = _TOKENS_SHOWN // 2
            pairs = [*pairs[:half], "...", *pairs[-half:]]
        console.print(Text("  ".join(pairs), style="dim"), soft_wrap=True)
        start += size
