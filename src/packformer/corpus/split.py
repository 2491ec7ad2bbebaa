"""Decides which documents are held out. Training and validation both get some."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from packformer.corpus.manifest_reading import read_shard
from packformer.corpus.shards import SPLITS, Shard, ShardWriter, open_shard
from packformer.corpus.share import NearShare, copy, runs
from packformer.counted import counted

_HASHED = 2**18  # bytes, less than the first piece of a long file has


def hash_of(data: bytes) -> int:
    """31 bits of the SHA-256 of the text's first 256 KiB: which side of the split it is on.

    No more than that, because a long file must be put on a side when only its first piece is known.
    """
    return int.from_bytes(hashlib.sha256(data[:_HASHED]).digest()[:4]) >> 1


def held_out(hashes: NDArray[np.int64], fraction: float) -> NDArray[np.bool_]:
    """Which documents of these hashes are for validation."""
    return hashes < fraction * 2**31


class Spare:
    """The document of a shard that the other split gets if it has none, with its copies.

    Of training that with the lowest hash, which any larger fraction would hold out first; of
    validation that with the highest.

    Args:
        split: that the shard is of.
    """

    def __init__(self, split: str) -> None:
        self._sign = 1 if split == SPLITS[0] else -1
        self._rank: int | None = None
        self._documents: list[int] = []
        self._text_bytes = self._spelled_bytes = 0

    def add(
        self,
        hashes: NDArray[np.int64],
        documents: NDArray[np.int64],
        text_bytes: NDArray[np.int64],
        spelled_bytes: NDArray[np.int64],
    ) -> None:
        """Looks at pieces of documents.

        Args:
            hashes: of each piece's document.
            documents: number of that document in the shard.
            text_bytes: of each piece.
            spelled_bytes: of each piece.
        """
        ranks = self._sign * hashes
        rank = int(ranks.min())
        if self._rank is None or rank < self._rank:
            self._rank, self._documents = rank, []
            self._text_bytes = self._spelled_bytes = 0
        here = ranks == self._rank
        new = np.unique(documents[here]).tolist()
        self._documents += new[1:] if self._documents[-1:] == new[:1] else new
        self._text_bytes += int(text_bytes[here].sum())
        self._spelled_bytes += int(spelled_bytes[here].sum())

    def found(self) -> dict[str, Any] | None:
        """For the journal; None if the shard has no document."""
        if self._rank is None:
            return None
        return {
            "rank": self._rank,
            "documents": self._documents,
            "text_bytes": self._text_bytes,
            "spelled_bytes": self._spelled_bytes,
        }


class Split(NamedTuple):
    """The shards of both splits, neither of them without a document if any is to be held out.

    Attributes:
        shards: of each split.
        remarks: what the user should know, a sentence each.
    """

    shards: dict[str, list[Shard]]
    remarks: list[str]


def split(
    folder: Path,
    parts: Sequence[dict[str, Any]],
    dtype: str,
    fraction: float | None,
    byte_lengths: NDArray[np.int64] | None,
) -> Split:
    """Both sides get documents, and validation about ``fraction`` of the tokens.

    Args:
        folder: of the shards.
        parts: of each the shards and their ``Spare.found()``.
        dtype: of the ids.
        fraction: that was to be held out; None for nothing at all.
        byte_lengths: of each id, int64 ``[V]``; None if the tokenizer does not say.

    Raises:
        ValueError: if there is no document, or only one that is too short for two.
    """
    shards = {side: [read_shard(part[side]) for part in parts if part[side]] for side in SPLITS}
    if fraction is None:
        return Split(shards, [])
    near = NearShare(folder, dtype, fraction, byte_lengths)
    if all(shards.values()) or sum(s.documents for some in shards.values() for s in some) == 1:
        return Split(*near.of(shards))
    given = _given_both(folder, shards, parts, dtype)
    if given.remarks:
        return given
    found, remarks = near.of(given.shards)
    if fraction == 0:
        held = sum(shard.tokens for shard in found["validation"])
        remarks = [
            "validation-fraction is 0, but training needs something to validate on: "
            f"{counted(held, 'token')} held out"
        ]
    return Split(found, remarks)


def _given_both(
    folder: Path, shards: dict[str, list[Shard]], parts: Sequence[dict[str, Any]], dtype: str
) -> Split:
    """The side that has no document gets the next in line by its hash, with its copies."""
    train, validation = SPLITS
    full, other = (train, validation) if shards[train] else (validation, train)
    count = sum(shard.documents for shard in shards[full])
    spares = [
        (shard, part["spare"][full])
        for shard, part in zip(shards[full], (p for p in parts if p[full]), strict=True)
    ]
    rank = min(spare["rank"] for _, spare in spares)
    spares = [(shard, spare) for shard, spare in spares if spare["rank"] == rank]
    remarks = []
    if sum(len(spare["documents"]) for _, spare in spares) == count:
        remarks = [f"all {count:,} documents are the same: validation measures memory alone"]
        spares = [(shard, _one_of(spare)) for shard, spare in spares[:1]]
    moved = _move(folder, shards, spares, (full, other), len(parts), dtype)
    return moved._replace(remarks=remarks)


def _one_of(spare: dict[str, Any]) -> dict[str, Any]:
    copies = len(spare["documents"])
    sizes = {name: spare[name] // copies for name in ("text_bytes", "spelled_bytes")}
    return {**spare, **sizes, "documents": spare["documents"][:1]}


def _move(
    folder: Path,
    shards: dict[str, list[Shard]],
    spares: Sequence[tuple[Shard, dict[str, Any]]],
    sides: tuple[str, str],
    number: int,
    dtype: str,
) -> Split:
    """Documents of some shards to the other side, in a shard of their own."""
    full, other = sides
    kept = list(shards[full])
    there = ShardWriter(folder / f"{other}-{number:05}.tokens", dtype)
    for offset, (shard, spare) in enumerate(spares):
        ids, ends = open_shard(folder / shard.file, shard, dtype)
        here = ShardWriter(folder / f"{full}-{number + offset:05}.tokens", dtype)
        goes = np.zeros(len(ends), bool)
        goes[spare["documents"]] = True
        for start, stop in runs(goes):
            first = int(ends[start - 1]) if start else 0
            part = ids[first : int(ends[stop - 1])]
            copy(there if goes[start] else here, part, np.asarray(ends[start:stop]) - first)
        text, spelled = spare["text_bytes"], spare["spelled_bytes"]
        there.add(ids[:0], _NONE, text, spelled)
        place = kept.index(shard)
        if goes.all():
            del kept[place]
        else:
            here.add(ids[:0], _NONE, shard.text_bytes - text, shard.spelled_bytes - spelled)
            kept[place] = _finished(here)
    return Split({full: kept, other: [_finished(there)]}, [])


_NONE = np.empty(0, np.int64)


def _finished(writer: ShardWriter) -> Shard:
    shard = writer.finish()
    assert shard is not None
    return shard
