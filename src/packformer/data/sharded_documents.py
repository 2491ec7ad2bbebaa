"""The documents of token shards, mapped from disk, or fetched first where they lie behind a URL."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from packformer.corpus import Shard, open_shard
from packformer.corpus.shards import check_ends, verify_ids
from packformer.data.fetch import ShardCache, is_url
from packformer.data.source import Tokens, successors

_SPARE_MAPS = 16
_THREADS = 4
_ATTEMPTS = 3


class ShardAt(NamedTuple):
    """Where a shard is, folder or URL, and what its manifest says of all.

    Attributes:
        verified: its ids and ends are checked when it is opened, or were before; else each piece is
            when it is read.
    """

    folder: str
    shard: Shard
    dtype: str
    vocab_size: int
    verified: bool


_Maps = tuple[NDArray[np.unsignedinteger], NDArray[np.int64]]


class ShardedDocuments:
    """Documents of some shards, mapped into memory when they are read; a ``Sectioned`` source.

    A section is a shard. The next sections are fetched while these are read. Documents of the
    previous ones may still wait for a row, so those stay mapped for one more group.

    Args:
        shards: folder or URL, and the manifest that describes the shard.
        at_once: shards that are shuffled together.
        cache_bytes: that fetched shards may take on disk.
    """

    def __init__(self, shards: Sequence[ShardAt], at_once: int, cache_bytes: int) -> None:
        self._shards = list(shards)
        self._cache_bytes = cache_bytes
        self.sections_at_once = at_once
        self.sections = [place.shard.documents for place in shards]
        self.num_documents = sum(self.sections)
        self._ends = [*accumulate(self.sections)]
        self._verified = all(place.verified for place in shards)
        self._vocab_size = min((place.vocab_size for place in shards), default=0)
        self._start()

    def _start(self) -> None:
        self._maps: OrderedDict[int, _Maps] = OrderedDict()
        self._cache = ShardCache(self._cache_bytes)
        self._coming: dict[int, Future[_Maps]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._current: list[int] = []
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        # For the loader's processes: each maps and fetches for itself.
        hidden = ("_maps", "_cache", "_coming", "_pool", "_current", "_process")
        return {name: value for name, value in vars(self).items() if name not in hidden}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start()

    def open(self, sections: list[int], following: list[int]) -> None:
        """Fetches ``sections``, and ``following`` in the background as far as the cache has room.

        Raises:
            ValueError: if the cache cannot hold ``sections``.
        """
        if self._process != os.getpid():  # forked: the threads that fetch stayed behind
            self._start()
        held = list(dict.fromkeys([*sections, *self._current]))
        sizes = {s: self._fetched_bytes(s) for s in dict.fromkeys([*held, *following])}
        needed = sum(sizes[section] for section in held)
        if needed > self._cache_bytes:
            raise ValueError(
                f"data.shards_at_once ({len(sections)}) shards and those read before them take "
                f"{needed / 2**30:.2g} GiB, more than data.cache_gib "
                f"({self._cache_bytes / 2**30:.2g}): lower it, or raise the cache"
            )
        for section in set(self._maps).difference(held):
            if self._fetched_bytes(section):
                del self._maps[section]  # a map keeps a file's room on the disk
        self._current = list(sections)
        for section in [*sections, *following]:
            if not sizes[section] or section in self._coming or section in self._maps:
                continue
            if section not in sections:
                needed += sizes[section]
                if needed > self._cache_bytes:
                    break
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_THREADS)
            self._coming[section] = self._pool.submit(self._fetch, section)
        for section in sections:
            self._open(section)

    def _fetched_bytes(self, section: int) -> int:
        place = self._shards[section]
        return place.shard.num_bytes(place.dtype) if is_url(place.folder) else 0

    def _fetch(self, section: int) -> _Maps:
        folder, shard, dtype, vocab_size, _ = self._shards[section]
        for attempt in range(_ATTEMPTS):
            file = self._cache.get(f"{folder}/{shard.file}", shard.sha256, shard.num_bytes(dtype))
            try:
                verify_ids(file, shard, dtype, vocab_size)
                return open_shard(file, shard, dtype)
            except (ValueError, OSError):
                if file.is_file() or attempt == _ATTEMPTS - 1:
                    raise  # else another process made room just now
        raise AssertionError("unreachable")

    def _open(self, section: int) -> _Maps:
        if section in self._maps:
            self._maps.move_to_end(section)
            return self._maps[section]
        folder, shard, dtype, _, verified = self._shards[section]
        if is_url(folder):
            coming = self._coming.pop(section, None)
            self._maps[section] = self._fetch(section) if coming is None else coming.result()
        else:
            file = Path(folder) / shard.file
            _, ends = self._maps[section] = open_shard(file, shard, dtype)
            if not verified:
                check_ends(file, shard, ends)
        while len(self._maps) > self.sections_at_once + _SPARE_MAPS:
            self._maps.popitem(last=False)
        return self._maps[section]

    def lengths(self, section: int, which: NDArray[np.int64] | None) -> NDArray[np.int64]:
        """Tokens of each document of a section, or of some, by their number in it."""
        _, ends = self._open(section)
        if which is None:
            return np.diff(ends, prepend=0)
        return np.asarray(ends[which] - np.where(which > 0, ends[which - 1], 0), dtype=np.int64)

    def name(self, index: int) -> str:
        """Shard and number in it, from 0, of document ``index``."""
        section, number = self._locate(index)
        place = self._shards[section]
        return f"{place.folder}/{place.shard.file} document {number}"

    def _locate(self, index: int) -> tuple[int, int]:
        section = bisect_right(self._ends, index)
        return section, index - (self._ends[section - 1] if section else 0)

    def _range(self, index: int) -> tuple[NDArray[np.unsignedinteger], int, int]:
        section, number = self._locate(index)
        ids, ends = self._open(section)
        return ids, int(ends[number - 1]) if number else 0, int(ends[number])

    def length(self, index: int) -> int:
        """Tokens of document ``index``."""
        _, start, end = self._range(index)
        return end - start

    def piece(self, index: int, start: int, length: int) -> tuple[Tokens, Tokens]:
        """Tokens, and each token's successor as its target."""
        ids, first, _ = self._range(index)
        tokens = ids[first + start : first + start + length].astype(np.int64)
        if not self._verified and len(tokens) and int(tokens.max()) >= self._vocab_size:
            raise ValueError(
                f"{self.name(index)}: token id {tokens.max()} lies outside the vocabulary "
                f"({self._vocab_size}): copy the corpus again, or leave data.verify=false out to "
                "check all of it"
            )
        return tokens, successors(tokens)
