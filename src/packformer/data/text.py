"""Text as documents: the standard library of the running interpreter, or the user's own files."""

from __future__ import annotations

import hashlib
import json
import logging
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from packformer.cache import cached_folder, fingerprint
from packformer.corpus.documents import Input, UndecodableError, text_of
from packformer.corpus.tokenizer import (
    MIN_VOCAB,
    encode_documents,
    load_tokenizer,
    num_ids,
    token_byte_lengths,
    train_bpe,
)
from packformer.data.source import DataSplits, Tokens, successors
from packformer.settings import as_text, check_whole

log = logging.getLogger(__name__)

_NAMES_SHOWN = 5
_LOSS = 0.01  # share of the text that a tokenizer may lose unnoticed
_NOT_DOCUMENTS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


@dataclass(frozen=True)
class TokenizedDocuments:
    """Documents as ranges of one memory-mapped array of token ids; a ``DocumentSource``.

    Attributes:
        ids: uint16 or uint32, all documents one after another.
        ranges: int64 ``[documents, 2]``, first and past-the-end token of each.
    """

    ids: NDArray[np.unsignedinteger]
    ranges: NDArray[np.int64]

    @property
    def num_documents(self) -> int:
        """How many documents there are."""
        return len(self.ranges)

    def length(self, index: int) -> int:
        """Tokens of document ``index``."""
        start, end = self.ranges[index]
        return int(end - start)

    def piece(self, index: int, start: int, length: int) -> tuple[Tokens, Tokens]:
        """Tokens, and each token's successor as its target."""
        first = int(self.ranges[index, 0]) + start
        tokens = self.ids[first : first + length].astype(np.int64)
        return tokens, successors(tokens)


@dataclass(frozen=True)
class StandardLibrary:
    """The Python standard library that runs this: real text, no download.

    One document per source file; tests and site-packages are left out.

    Args:
        vocab_size: entries of the BPE trained on it.
        tokenizer: path of a ``tokenizer.json`` to use instead.
        validation_fraction: share of the documents held out.

    Raises:
        ValueError: if the interpreter comes without its sources, or an option is out of range.
    """

    vocab_size: int = 4096
    tokenizer: str | None = None
    validation_fraction: float = 0.05

    def prepare(self) -> DataSplits:
        root = Path(sysconfig.get_paths()["stdlib"])
        texts = []
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).parts
            if _NOT_DOCUMENTS.isdisjoint(parts):
                texts.append(path.read_text(encoding="utf-8", errors="replace"))
        if not any(texts):
            raise ValueError(
                f"this interpreter comes without sources of its standard library in {root}: "
                "use data=text data.path=FOLDER"
            )
        return _tokenize(texts, f"standard library in {root}", self)


@dataclass(frozen=True)
class TextFiles:
    """The user's own text.

    A file is one document; in a folder every file below it is one, hidden ones left out; in a
    ``.jsonl`` file every line is one, in a ``.csv``, ``.tsv`` or ``.parquet`` file every row. Files
    may be ``.gz`` or ``.zst``. If there is one document in all, its last part is held out.

    Args:
        path: file or folder.
        field: that holds the text in a ``.jsonl`` line, or the column that does.
        skip_invalid: leave out, and count, files and lines that are not UTF-8.
        vocab_size: entries of the BPE trained on the text.
        tokenizer: path of a ``tokenizer.json`` to use instead.
        validation_fraction: share of the documents held out.

    Raises:
        ValueError: if the path is missing or yields no document, or a file cannot be read as text.
    """

    path: str
    field: str = "text"
    skip_invalid: bool = False
    vocab_size: int = 4096
    tokenizer: str | None = None
    validation_fraction: float = 0.05

    def prepare(self) -> DataSplits:
        field = as_text("data.field", self.field, "name")
        root = Path(as_text("data.path", self.path, "path")).expanduser()
        if not root.exists():
            raise ValueError(f"data.path {root} does not exist: give a file, folder or .jsonl")
        given = Input((str(root),), field)
        texts: list[str] = []
        skipped: Counter[str] = Counter()
        sources = given.sources()
        for source in sources:
            for text in self._texts(given, source):
                if text is None:
                    skipped[Path(source).name] += 1
                elif text:
                    texts.append(text)
        if skipped:
            names = [f"{name} ({n})" if n > 1 else name for name, n in skipped.items()]
            shown = ", ".join(names[:_NAMES_SHOWN]) + ", ..." * (len(names) > _NAMES_SHOWN)
            log.warning("skipped %d documents that are not UTF-8: %s", skipped.total(), shown)
        if not texts:
            why = f", {skipped.total()} not UTF-8" if skipped else ", no text"
            raise ValueError(f"data.path {root} holds no document: {len(sources)} files{why}")
        return _tokenize(texts, str(root), self)

    def _texts(self, given: Input, source: str) -> Iterator[str | None]:
        """The documents of a file; None for one that is not UTF-8."""
        pieces: list[str | None] = []
        for raw in given.read(source):
            try:
                pieces.append(text_of(raw, given.field))
            except UndecodableError as error:
                if not self.skip_invalid:
                    raise ValueError(
                        f"{error}: convert or remove it, or skip such input with "
                        "data.skip_invalid=true"
                    ) from error
                pieces.append(None)
            if raw.last:
                whole = [piece for piece in pieces if piece is not None]
                yield "".join(whole) if len(whole) == len(pieces) else None
                pieces = []


def _tokenize(texts: list[str], name: str, options: StandardLibrary | TextFiles) -> DataSplits:
    if not 0 < options.validation_fraction < 1:
        raise ValueError(
            f"validation_fraction ({options.validation_fraction}) must lie between 0 and 1"
        )
    chosen = options.tokenizer
    given = None
    if chosen is not None:
        given = load_tokenizer(Path(as_text("data.tokenizer", chosen, "path")))
    if given is None:
        check_whole("data.vocab_size", options.vocab_size, at_least=MIN_VOCAB)
    choice = f"bpe {options.vocab_size}" if given is None else given.to_str()
    key = fingerprint(["1", version("tokenizers"), choice, *texts])

    def make(folder: Path) -> None:
        log.info("tokenizing %s, once: %d documents", name, len(texts))
        tokenizer = train_bpe(texts, options.vocab_size) if given is None else given
        documents = list(encode_documents(tokenizer, texts))
        dtype = np.uint16 if num_ids(tokenizer) <= 2**16 else np.uint32
        ids = np.concatenate([document.astype(dtype) for document in documents])
        ends = np.cumsum([len(document) for document in documents], dtype=np.int64)
        np.save(folder / "ids.npy", ids)
        np.save(folder / "ends.npy", ends)
        tokenizer.save(str(folder / "tokenizer.json"))

    folder = cached_folder(f"tokens-{key}", make)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = np.load(folder / "ids.npy", mmap_mode="r")
    ends = np.load(folder / "ends.npy")
    ranges = np.stack([np.append(0, ends[:-1]), ends], axis=1)
    train, validation = _split(texts, ranges, options.validation_fraction)
    byte_lengths = token_byte_lengths(tokenizer)
    if given is not None and not _spells(tokenizer, byte_lengths, ids, texts):
        byte_lengths = None
    return DataSplits(
        train=TokenizedDocuments(ids, train),
        validation=TokenizedDocuments(ids, validation),
        vocab_size=num_ids(tokenizer),
        byte_lengths=byte_lengths,
        scores_answers=False,
        tokenizer=folder / "tokenizer.json",
        fingerprint=fingerprint([key, str(options.validation_fraction)]),
        description=f"{name}: {len(texts):,} documents, {len(ids):,} tokens, "
        f"{len(validation):,} held out",
    )


def _spells(
    tokenizer: Tokenizer,
    byte_lengths: Tokens | None,
    ids: NDArray[np.unsignedinteger],
    texts: list[str],
) -> bool:
    """Whether the tokens stand for (nearly) all bytes of the texts; warns of what is lost."""
    unknown = json.loads(tokenizer.to_str())["model"].get("unk_token")
    if unknown is not None and (id := tokenizer.token_to_id(unknown)) is not None:
        share = float(np.mean(ids == id))
        if share > _LOSS:
            log.warning("the tokenizer turns %.1f %% of the tokens into %s", 100 * share, unknown)
    if byte_lengths is None:
        return False
    size = sum(len(text.encode()) for text in texts)
    spelled = int(byte_lengths[ids].sum())
    if abs(spelled - size) <= _LOSS * size:
        return True
    log.warning(
        "the tokenizer's tokens spell %s of the text's %s bytes: no bits per byte are reported",
        f"{spelled:,}",
        f"{size:,}",
    )
    return False


def _split(
    texts: list[str], ranges: NDArray[np.int64], fraction: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Train and validation ranges; by a hash of each text, so that more documents move none."""
    if len(texts) == 1:
        start, end = ranges[0]
        middle = end - max(2, int(fraction * (end - start)))
        log.warning("one document in all: its last %d tokens are held out", end - middle)
        return np.array([[start, middle]]), np.array([[middle, end]])
    digests = [hashlib.sha256(text.encode()).digest() for text in texts]
    held_out = np.array([int.from_bytes(d[:8]) < fraction * 2**64 for d in digests])
    by_digest = sorted(range(len(texts)), key=lambda i: digests[i])
    first, last = digests[by_digest[0]], digests[by_digest[-1]]
    if first == last:
        log.warning("all %d documents are the same: validation measures memory alone", len(texts))
        held_out[:] = np.arange(len(texts)) == 0
    else:  # neither side is empty, and copies of a document are on one side
        held_out |= np.array([digest == first for digest in digests])
        held_out &= np.array([digest != last for digest in digests])
    return ranges[~held_out], ranges[held_out]
