"""Token shards: documents' ids one after another in files that are mapped into memory.

A corpus is a folder: ``manifest.json``, ``tokenizer.json`` and shards. A shard is one file: the ids
of all its documents, little-endian uint16 or uint32, zeros up to a multiple of 8 bytes, then for
each document the number of ids up to its end, little-endian int64.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from packformer.bounded import check_in_its_folder
from packformer.corpus.left_out import LeftOut

FORMAT = 1
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
SPLITS = ("train", "validation")
DTYPES = ("uint16", "uint32")
_ALIGNMENT = 8
_BLOCK = 16 * 2**20

Ids = NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class Shard:
    """One file of documents.

    Attributes:
        file: its name in the corpus's folder.
        sha256: of its bytes.
        documents: in it.
        tokens: in it.
        text_bytes: of the documents' texts, UTF-8.
        spelled_bytes: what the tokens stand for; less where the tokenizer loses text; -1 for each
            piece of text if it does not say.
    """

    file: str
    sha256: str
    documents: int
    tokens: int
    text_bytes: int
    spelled_bytes: int

    def num_bytes(self, dtype: str) -> int:
        """Size of the file."""
        return _padded(self.tokens * np.dtype(dtype).itemsize) + 8 * self.documents


@dataclass(frozen=True)
class Manifest:
    """What a corpus holds.

    Attributes:
        tokenizer_sha256: of ``tokenizer.json``.
        vocab_size: every id is below it.
        dtype: of the ids, ``uint16`` or ``uint32``.
        validation_fraction: share held out, as it was asked for.
        left_out: what of the input is in no shard.
        train: shards to learn from.
        validation: shards to measure on.
        remarks: what who trains on it should know, a sentence each.
        format: of this file and the shards.
    """

    tokenizer_sha256: str
    vocab_size: int
    dtype: str
    validation_fraction: float
    left_out: LeftOut
    train: list[Shard] = field(default_factory=list)
    validation: list[Shard] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    format: int = FORMAT

    def save(self, folder: Path) -> None:
        """Writes it, complete or not at all."""
        text = json.dumps(asdict(self), indent=1) + "\n"
        write_whole(folder / MANIFEST, text, folder / f".{MANIFEST}")


def write_whole(file: Path, text: str, unfinished: Path) -> None:
    """Writes ``file`` through ``unfinished``, which a failure does not leave behind.

    Raises:
        OSError: naming ``file``.
    """
    try:
        unfinished.write_text(text)
        os.replace(unfinished, file)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        error.filename = str(file)
        raise


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


class ShardWriter:
    """Writes a shard next to its final place; ``finish`` moves it there.

    Args:
        file: its place.
        dtype: of the ids.

    Attributes:
        documents: that ended so far.
        tokens: so far.
        text_bytes: of their texts.
        spelled_bytes: of the ids.
    """

    def __init__(self, file: Path, dtype: str) -> None:
        self._file = file
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._stream: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self._ends: list[NDArray[np.int64]] = []
        self.documents = self.tokens = self.text_bytes = self.spelled_bytes = 0

    def add(self, ids: Ids, ends: NDArray[np.int64], text_bytes: int, spelled_bytes: int) -> None:
        """Adds documents, and pieces of them.

        Args:
            ids: of all, one after another.
            ends: past-the-end places in ``ids`` where a document ends.
            text_bytes: of their texts.
            spelled_bytes: of the ids.
        """
        self._ends.append(self.tokens + ends)
        self._write(ids.astype(self._dtype, copy=False).tobytes())
        self.documents += len(ends)
        self.tokens += len(ids)
        self.text_bytes += text_bytes
        self.spelled_bytes += spelled_bytes

    def _write(self, data: bytes) -> None:
        if self._stream is None:
            self._stream = open(self._unfinished, "wb")  # noqa: SIM115  closed by finish or discard
        with self._naming_the_file():
            self._stream.write(data)
        self._digest.update(data)

    @contextmanager
    def _naming_the_file(self) -> Iterator[None]:
        """Errors of an open file do not tell which it is."""
        try:
            yield
        except OSError as error:
            error.filename = str(self._file)
            raise

    @property
    def _unfinished(self) -> Path:
        return self._file.with_name(f".{self._file.name}")

    def finish(self) -> Shard | None:
        """The shard, on disk and in place; None if there was no document."""
        if self._stream is None:
            return None
        size = self.tokens * self._dtype.itemsize
        self._write(bytes(_padded(size) - size))
        ends = np.concatenate(self._ends)
        self._write(ends.astype("<i8").tobytes())
        with self._naming_the_file():
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()
        os.replace(self._unfinished, self._file)
        return Shard(
            self._file.name,
            self._digest.hexdigest(),
            len(ends),
            self.tokens,
            self.text_bytes,
            self.spelled_bytes,
        )

    def discard(self) -> None:
        """Removes what was written and not finished."""
        if self._stream is not None:
            with suppress(OSError):  # on a full disk the rest of it cannot be written
                self._stream.close()
            self._unfinished.unlink(missing_ok=True)


def open_shard(file: Path, shard: Shard, dtype: str) -> tuple[Ids, NDArray[np.int64]]:
    """Ids of all documents, and the place where each document ends; both mapped into memory.

    Raises:
        ValueError: if the file is missing, a link out of its folder, or not as long as its manifest
            says.
    """
    if not file.is_file():
        raise ValueError(f"{file} is missing: its manifest lists it")
    check_in_its_folder(file)
    size, wanted = file.stat().st_size, shard.num_bytes(dtype)
    if size != wanted:
        raise ValueError(
            f"{file} ends at byte {size:,}, its manifest says {wanted:,}: it was cut short or "
            "exchanged"
        )
    place = _padded(shard.tokens * np.dtype(dtype).itemsize)
    ids = np.memmap(file, np.dtype(dtype).newbyteorder("<"), "r", 0, (shard.tokens,))
    ends = np.memmap(file, "<i8", "r", place, (shard.documents,))
    # Plain arrays over the maps: a slice of a memmap takes several times as long.
    return ids.view(np.ndarray), ends.view(np.ndarray)


def verify_shard(
    file: Path,
    shard: Shard,
    dtype: str,
    vocab_size: int,
    report: Callable[[int], None] = lambda size: None,
) -> None:
    """Reads a whole shard and checks it against its manifest.

    Args:
        file: where it lies.
        shard: what the manifest says.
        dtype: of the ids.
        vocab_size: every id must be below it.
        report: told the bytes read each time.

    Raises:
        ValueError: naming the file, and the place and rule where that can be said.
    """
    verify_ids(file, shard, dtype, vocab_size)
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block_bytes := stream.read(_BLOCK):
            digest.update(block_bytes)
            report(len(block_bytes))
    if digest.hexdigest() != shard.sha256:
        raise ValueError(
            f"{file}: its SHA-256 is {digest.hexdigest()[:12]}..., its manifest says "
            f"{shard.sha256[:12]}...: some of its {file.stat().st_size:,} bytes changed; copy it "
            "or prepare it again"
        )


def verify_ids(file: Path, shard: Shard, dtype: str, vocab_size: int) -> None:
    """Reads a shard's ids and document ends and checks that they are valid.

    Raises:
        ValueError: naming the file, the place and the rule.
    """
    ids, ends = open_shard(file, shard, dtype)
    check_ends(file, shard, ends)
    per_block = _BLOCK // ids.itemsize
    for start in range(0, len(ids), per_block):
        block = ids[start : start + per_block]
        if int(block.max()) >= vocab_size:
            place = start + int((block >= vocab_size).argmax())
            raise ValueError(
                f"{file}, byte {place * ids.itemsize:,}: token id {int(ids[place])} lies outside "
                f"the vocabulary ({vocab_size})"
            )


def check_ends(file: Path, shard: Shard, ends: NDArray[np.int64]) -> None:
    """Checks that documents end one after the other, the last with the shard.

    Raises:
        ValueError: naming the file.
    """
    last = ends[-1] if len(ends) else 0
    if last != shard.tokens or (np.diff(ends, prepend=0) < 1).any():
        raise ValueError(f"{file}: its document ends do not ascend to {shard.tokens:,}")


def check_whole_file(file: Path) -> None:
    """Refuses a file that has a hole: its room was reserved, and not all of it written.

    Raises:
        ValueError: naming the place.
    """
    size = file.stat().st_size
    with suppress(OSError, AttributeError), file.open("rb") as stream:  # not on all systems
        hole = os.lseek(stream.fileno(), 0, os.SEEK_HOLE)
        if hole < size:
            raise ValueError(f"{file} has a hole at byte {hole:,} of {size:,}: copy it again")


def hash_file(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_tokenizer(manifest: Manifest, file: Path, shown: str | None = None) -> None:
    """Refuses a tokenizer that is not the one the shards were made with.

    Args:
        manifest: of the shards.
        file: of the tokenizer.
        shown: how messages call it.

    Raises:
        ValueError: naming both.
    """
    if not file.is_file():
        raise ValueError(f"{file} is missing: the shards beside it were made with it")
    check_in_its_folder(file)
    if (found := hash_file(file)) != manifest.tokenizer_sha256:
        raise ValueError(
            f"{shown or file} is not the tokenizer its shards were made with: its SHA-256 is "
            f"{found[:12]}..., the manifest says {manifest.tokenizer_sha256[:12]}..."
        )


def totals(shards: list[Shard]) -> dict[str, Any]:
    """Documents, tokens and bytes of text of all."""
    return {
        name: sum(getattr(shard, name) for shard in shards)
        for name in ("documents", "tokens", "text_bytes", "spelled_bytes")
    }
