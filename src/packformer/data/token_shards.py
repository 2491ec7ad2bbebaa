"""Corpora of token shards, made by ``packformer prepare``: on disk or behind a URL."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from packformer.cache import cache_folder, fingerprint
from packformer.corpus import LeftOut, Shard, load_manifest, open_shard, verify_shard
from packformer.corpus.manifest_reading import MOST_BYTES, read_manifest
from packformer.corpus.prepared import corpus_at
from packformer.corpus.shards import (
    MANIFEST,
    TOKENIZER,
    check_tokenizer,
    check_whole_file,
    hash_file,
    totals,
)
from packformer.corpus.tokenizer import num_ids, open_tokenizer, token_byte_lengths
from packformer.counted import counted
from packformer.data.corpus_names import corpus_names
from packformer.data.fetch import is_url, read_url
from packformer.data.remarks import tell_once
from packformer.data.sharded_documents import ShardAt, ShardedDocuments
from packformer.data.source import DataSplits, DocumentSource, Mixture, Tokens
from packformer.requirements import TOKEN_SHARDS
from packformer.settings import as_text, check_settings
from packformer.whole_file import replacing

log = logging.getLogger(__name__)

_AT_ONCE_LOCAL, _AT_ONCE_FETCHED = 256, 8
_LOSS = 0.01  # share of the text that a tokenizer may lose unnoticed
_THREADS = 4


@dataclass(frozen=True)
class TokenShards:
    """One or several corpora that ``packformer prepare`` made.

    Args:
        path: the folder of a corpus, or its URL, of any kind that fsspec reads; or several. Each
            may name the ``manifest.json`` in it.
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
        check_settings("data", TOKEN_SHARDS, vars(self))
        weights = self._weights(len(paths))
        paths = [corpus_at(path) for path in paths]
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
        tokenizer = open_tokenizer(first.tokenizer)
        for corpus in corpora:
            corpus.check_vocabulary(num_ids(tokenizer))
            tell_once(corpus.path, corpus.manifest.remarks, named=several)
        sources = [self._source(corpus, "train") for corpus in corpora]
        for corpus, source in zip(corpora, sources, strict=True):
            if not source.num_documents:
                raise ValueError(f"{corpus.path} holds no document to train on")
        names = corpus_names([corpus.path for corpus in corpora])
        validation = self._validation(corpora, names)
        if weights is None:
            weights = [totals(corpus.manifest.train)["tokens"] for corpus in corpora]
        train = sources[0] if len(sources) == 1 else Mixture(sources, weights, names)
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
            f"{found['tokens']:,} tokens"
            + f", {validation.num_documents:,} held out ({held_out:.2%} of the tokens)"
            * bool(validation.num_documents)
            + f", {left_out}" * bool(left_out),
        )

    def _weights(self, count: int) -> list[float] | None:
        if self.weights is None:
            return None
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
        m = corpus.manifest
        places = [
            ShardAt(corpus.path, shard, m.dtype, m.vocab_size, corpus.is_url or self.verify)
            for shard in getattr(m, split)
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
                read_url(f"{self.path}/{MANIFEST}", MOST_BYTES), self.path
            )
            folder = cache_folder() / "tokenizers" / self.manifest.tokenizer_sha256
            self.tokenizer = folder / TOKENIZER
            wanted = self.manifest.tokenizer_sha256
            if not self.tokenizer.exists() or hash_file(self.tokenizer) != wanted:
                content = read_url(f"{self.path}/{TOKENIZER}", MOST_BYTES)
                folder.mkdir(parents=True, exist_ok=True)
                with replacing(self.tokenizer) as unfinished:
                    unfinished.write_bytes(content)
                    check_tokenizer(self.manifest, unfinished, shown=f"{self.path}/{TOKENIZER}")
        else:
            folder = Path(path).expanduser()
            file = folder / MANIFEST
            if not file.is_file():
                raise ValueError(
                    f"{path} is no corpus of token shards, it has no {MANIFEST}: make one with "
                    "`packformer prepare`, or continue it if it was interrupted"
                )
            self.manifest = read_manifest(file)
            self.path = str(folder)
            self.tokenizer = folder / TOKENIZER
        check_tokenizer(self.manifest, self.tokenizer)

    def check_vocabulary(self, num_ids: int) -> None:
        """Refuses a vocabulary that is larger than the tokenizer's: the model would be, too."""
        if self.manifest.vocab_size > num_ids:
            raise ValueError(
                f"{self.path} is damaged: its {MANIFEST} says vocab_size "
                f"{self.manifest.vocab_size:,}, and its {TOKENIZER} has {num_ids:,} ids"
            )

    def verify(self) -> None:
        """Checks all shards on disk against the manifest; only once, if they are right."""
        if self.is_url:
            return
        m = self.manifest
        files = [(Path(self.path) / shard.file, shard) for shard in (*m.train, *m.validation)]
        for file, shard in files:
            open_shard(file, shard, m.dtype)
            check_whole_file(file)
        stats = [(file.stat().st_size, file.stat().st_mtime_ns) for file, _ in files]
        key = fingerprint([self.path, json.dumps([asdict(m), stats])])
        marker = cache_folder() / "verified" / key
        if marker.exists():
            return

        def check(at: tuple[Path, Shard]) -> None:
            file, shard = at
            verify_shard(file, shard, m.dtype, m.vocab_size)

        size = sum(size for size, _ in stats)
        shown = f"{size / 2**20:,.0f} MiB" if size >= 2**20 else f"{-(-size // 2**10)} KiB"
        log.info("checking %s (%s) in %s, once", counted(len(files), "shard"), shown, self.path)
        with ThreadPoolExecutor(_THREADS) as pool:
            # The first failure cancels what has not begun.
            list(pool.map(check, files))
        with suppress(OSError):  # where the cache cannot be written, it is checked again
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()
