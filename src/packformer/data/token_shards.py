"""Corpora of token shards, made by ``packformer prepare``: on disk or behind a URL."""

from __future__ import annotations

import json
import logging
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from packformer.cache import cache_folder, fingerprint
from packformer.corpus import LeftOut, Shard, load_manifest, open_shard, verify_shard
from packformer.corpus.shards import (
    MANIFEST,
    TOKENIZER,
    check_tokenizer,
    hash_file,
    totals,
    verify_ids,
)
from packformer.corpus.tokenizer import token_byte_lengths
from packformer.counted import counted
from packformer.data.corpus_names import corpus_names
from packformer.data.fetch import ShardCache, is_url, read_url
from packformer.data.source import DataSplits, DocumentSource, Mixture, Tokens, successors
from packformer.settings import as_text, check_flag, check_number, check_whole

log = logging.getLogger(__name__)

_AT_ONCE_LOCAL, _AT_ONCE_FETCHED = 256, 8
_LOSS = 0.01  # share of the text that a tokenizer may lose unnoticed
_SPARE_MAPS = 16
_THREADS = 4
_ATTEMPTS = 3


@dataclass(frozen=True)
class TokenShards:
    """One or several corpora that ``packformer prepare`` made.

    Args:
        path: the folder of a corpus, or its URL, of any kind that fsspec reads; or several.
        weights: share of the training tokens that each of several gives, of any sum; None for their
            sizes, so that all are read equally often.
        shards_at_once: shards that are shuffled together: 4 bytes of memory per document of them.
            By default 256, of URLs 8, because they must be there before the first of their tokens.
        cache_gib: that shards fetched from URLs may take on the local disk.
        verify: check a corpus on disk against its hashes, once; fetched shards always are.

    Raises:
        ValueError: if a corpus is missing, damaged, or not made with the others' tokenizer.
    """

    path: str | Sequence[str]
    weights: Sequence[float] | None = None
    shards_at_once: int | None = None
    cache_gib: float = 64
    verify: bool = True

    def prepare(self) -> DataSplits:
        several = isinstance(self.path, Sequence) and not isinstance(self.path, str)
        kind = "corpus's folder or URL, or several"
        paths = [
            as_text("data.path", path, kind) for path in (self.path if several else [self.path])
        ]
        if not paths:
            raise ValueError(f"data.path ([]) must be a {kind}")
        check_flag("data.verify", self.verify)
        weights = self._weights(len(paths))
        check_number("data.cache_gib", self.cache_gib, above=0)
        if self.shards_at_once is not None:
            check_whole("data.shards_at_once", self.shards_at_once, at_least=1)
        paths = [path.removesuffix(f"/{MANIFEST}") for path in paths]
        _check_different(paths)
        corpora = [_Corpus(path) for path in paths]
        first = corpora[0]
        for corpus in corpora[1:]:
            if corpus.manifest.tokenizer_sha256 != first.manifest.tokenizer_sha256:
                raise ValueError(
                    f"{corpus.path} was made with another tokenizer than {first.path}: prepare it "
                    f"again with --tokenizer {first.path}/{TOKENIZER}"
                )
        if self.verify:
            for corpus in corpora:
                corpus.verify()
        for corpus in corpora:
            for remark in corpus.manifest.remarks:
                log.warning("%s%s", f"{corpus.path}: " if several else "", remark)
        sources = [self._source(corpus, "train") for corpus in corpora]
        for corpus, source in zip(corpora, sources, strict=True):
            if not source.num_documents:
                raise ValueError(f"{corpus.path} holds no document to train on")
        names = corpus_names([corpus.path for corpus in corpora])
        validation = self._validation(corpora, names)
        if weights is None:
            weights = [totals(corpus.manifest.train)["tokens"] for corpus in corpora]
        train = sources[0] if len(sources) == 1 else Mixture(sources, weights, names)
        tokenizer = Tokenizer.from_file(str(first.tokenizer))
        shards = [s for c in corpora for s in (*c.manifest.train, *c.manifest.validation)]
        found = totals(shards)
        kept_back = totals([s for c in corpora for s in c.manifest.validation])
        held_out = kept_back["tokens"] / found["tokens"]
        left_out = sum((corpus.manifest.left_out for corpus in corpora), LeftOut())
        contents = [[asdict(corpus.manifest) for corpus in corpora], list(weights)]
        return DataSplits(
            train=train,
            validation=validation,
            vocab_size=first.manifest.vocab_size,
            byte_lengths=_byte_lengths(tokenizer, found),
            scores_answers=False,
            tokenizer=first.tokenizer,
            fingerprint=fingerprint([json.dumps([contents, sources[0].sections_at_once])]),
            description=f"{', '.join(paths)}: {counted(found['documents'], 'document')}, "
            f"{found['tokens']:,} tokens, {validation.num_documents:,} held out ({held_out:.2%} of "
            "the tokens)" + f", {left_out}" * bool(left_out),
        )

    def _weights(self, count: int) -> list[float] | None:
        if self.weights is None:
            return None
        if not isinstance(self.weights, list | tuple):
            raise ValueError(f"data.weights ({self.weights}) must be a list of numbers, or null")
        for weight in self.weights:
            check_number("data.weights", weight, above=0)
        if len(self.weights) != count:
            raise ValueError(
                f"data.weights ({len(self.weights)}) must be as many as data.path ({count})"
            )
        return list(self.weights)

    def _validation(self, corpora: list[_Corpus], names: list[str]) -> DocumentSource:
        """What is held out, of several corpora side by side."""
        if len(corpora) == 1:
            return self._source(corpora[0], "validation")
        held_out = []
        for corpus, name in zip(corpora, names, strict=True):
            if tokens := totals(corpus.manifest.validation)["tokens"]:
                held_out.append((self._source(corpus, "validation"), tokens, name))
            else:
                log.warning("%s has no document held out: it is not validated on", corpus.path)
        sources, sizes, shown = zip(*held_out, strict=True) if held_out else ((), (), ())
        return Mixture(sources, sizes, shown)

    def _source(self, corpus: _Corpus, split: str) -> ShardedDocuments:
        default = _AT_ONCE_FETCHED if corpus.is_url else _AT_ONCE_LOCAL
        at_once = self.shards_at_once or default
        places = [
            _ShardAt(corpus.path, shard, corpus.manifest.dtype, corpus.manifest.vocab_size)
            for shard in getattr(corpus.manifest, split)
        ]
        return ShardedDocuments(places, at_once, int(self.cache_gib * 2**30))


def _byte_lengths(tokenizer: Tokenizer, found: dict[str, Any]) -> Tokens | None:
    """Bytes that each id stands for, if the tokens spell (nearly) all of the texts."""
    lengths = token_byte_lengths(tokenizer)
    if lengths is None:
        return None
    size, spelled = found["text_bytes"], found["spelled_bytes"]
    if abs(spelled - size) <= _LOSS * size:
        return lengths
    log.warning(
        "the tokenizer's tokens spell %s of the text's %s bytes: no bits per byte are reported",
        f"{spelled:,}",
        f"{size:,}",
    )
    return None


def _check_different(paths: Sequence[str]) -> None:
    """Refuses a corpus that is named twice.

    Raises:
        ValueError: naming it.
    """
    seen: set[str] = set()
    for path in paths:
        place = path.rstrip("/") if "://" in path else str(Path(path).expanduser().resolve())
        if place in seen:
            raise ValueError(
                f"data.path names {path} more than once: name it once, and give it a higher weight "
                "in data.weights to read it more often"
            )
        seen.add(place)


class _Corpus:
    """A folder of shards, or its URL.

    Attributes:
        path: as it was given, without a slash at the end.
        manifest: what it holds.
        tokenizer: a local file.
    """

    def __init__(self, path: str) -> None:
        self.path = path.rstrip("/")
        self.is_url = is_url(path)
        if self.is_url:
            self.manifest = load_manifest(
                read_url(f"{self.path}/{MANIFEST}").decode(errors="replace"), self.path
            )
            folder = cache_folder() / "tokenizers" / self.manifest.tokenizer_sha256
            self.tokenizer = folder / TOKENIZER
            wanted = self.manifest.tokenizer_sha256
            if not self.tokenizer.exists() or hash_file(self.tokenizer) != wanted:
                content = read_url(f"{self.path}/{TOKENIZER}")
                folder.mkdir(parents=True, exist_ok=True)
                unfinished = folder / f".{os.getpid()}-{TOKENIZER}"
                unfinished.write_bytes(content)
                try:
                    check_tokenizer(self.manifest, unfinished, shown=f"{self.path}/{TOKENIZER}")
                    os.replace(unfinished, self.tokenizer)
                finally:
                    unfinished.unlink(missing_ok=True)
        else:
            folder = Path(path).expanduser()
            file = folder / MANIFEST
            if not file.is_file():
                raise ValueError(
                    f"{path} is no corpus of token shards, it has no {MANIFEST}: make one with "
                    "`packformer prepare`, or go on with it if it was interrupted"
                )
            self.manifest = load_manifest(file.read_text(errors="replace"), str(file))
            self.path = str(folder)
            self.tokenizer = folder / TOKENIZER
        check_tokenizer(self.manifest, self.tokenizer)

    def verify(self) -> None:
        """Checks all shards on disk against the manifest; only once, if they are right."""
        if self.is_url:
            return
        m = self.manifest
        files = [(Path(self.path) / shard.file, shard) for shard in (*m.train, *m.validation)]
        for file, shard in files:
            open_shard(file, shard, m.dtype)
        stats = [(file.stat().st_size, file.stat().st_mtime_ns) for file, _ in files]
        key = fingerprint([self.path, json.dumps([asdict(m), stats])])
        marker = cache_folder() / "verified" / key
        if marker.exists():
            return
        size = sum(size for size, _ in stats)
        log.info("checking %s of shards in %s, once", f"{size / 2**20:,.0f} MiB", self.path)
        with ThreadPoolExecutor(_THREADS) as pool:
            for done in [
                pool.submit(verify_shard, file, shard, m.dtype, m.vocab_size)
                for file, shard in files
            ]:
                done.result()
        with suppress(OSError):  # where the cache cannot be written, it is checked again
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()


class _ShardAt(NamedTuple):
    """Where a shard is, folder or URL, and what its manifest says of all."""

    folder: str
    shard: Shard
    dtype: str
    vocab_size: int


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

    def __init__(self, shards: Sequence[_ShardAt], at_once: int, cache_bytes: int) -> None:
        self._shards = list(shards)
        self._cache_bytes = cache_bytes
        self.sections_at_once = at_once
        self.sections = [place.shard.documents for place in shards]
        self.num_documents = sum(self.sections)
        self._ends = [*accumulate(self.sections)]
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
        folder, shard, dtype, vocab_size = self._shards[section]
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
        folder, shard, dtype, _ = self._shards[section]
        if is_url(folder):
            coming = self._coming.pop(section, None)
            self._maps[section] = self._fetch(section) if coming is None else coming.result()
        else:
            self._maps[section] = open_shard(Path(folder) / shard.file, shard, dtype)
        while len(self._maps) > self.sections_at_once + _SPARE_MAPS:
            self._maps.popitem(last=False)
        return self._maps[section]

    def lengths(self, section: int, which: NDArray[np.int64] | None) -> NDArray[np.int64]:
        """Tokens of each document of a section, or of some, by their number in it."""
        _, ends = self._open(section)
        if which is None:
            return np.diff(ends, prepend=0)
        return np.asarray(ends[which] - np.where(which > 0, ends[which - 1], 0), dtype=np.int64)

    def _range(self, index: int) -> tuple[NDArray[np.unsignedinteger], int, int]:
        section = bisect_right(self._ends, index)
        ids, ends = self._open(section)
        number = index - (self._ends[section - 1] if section else 0)
        return ids, int(ends[number - 1]) if number else 0, int(ends[number])

    def length(self, index: int) -> int:
        """Tokens of document ``index``."""
        _, start, end = self._range(index)
        return end - start

    def piece(self, index: int, start: int, length: int) -> tuple[Tokens, Tokens]:
        """Tokens, and each token's successor as its target."""
        ids, first, _ = self._range(index)
        tokens = ids[first + start : first + start + length].astype(np.int64)
        return tokens, successors(tokens)
