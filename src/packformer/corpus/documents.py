"""Documents as they lie in files: read one after another, not decoded yet."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import zstandard

PIECE = 2**20
"""Bytes of a text file that are read at once; longer ones come in pieces."""
FORMATS = ("auto", "text", "jsonl", "csv", "parquet")
HUGGING_FACE = "hf:"
STANDARD_INPUT = "-"
_LINES_PER_TELL = 256
_ZSTD_BLOCK = 2**16
_NOT_READ = (".bz2", ".xz", ".lzma", ".zip", ".7z", ".lz4", ".br")
_SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}


class Raw(NamedTuple):
    """A document, or a piece of a long one.

    Attributes:
        data: UTF-8 text, or a line of JSON.
        place: where it comes from, for messages.
        is_json: ``data`` is a line of JSON.
        offset: of ``data`` in its file, in bytes, where it is a piece of a file; else 0.
        first: begins its document.
        last: ends its document.
        read: bytes of the input that are done with, for the progress.
    """

    data: bytes
    place: str
    is_json: bool
    offset: int
    first: bool
    last: bool
    read: int


@dataclass(frozen=True)
class Input:
    """What is to be prepared.

    Attributes:
        paths: files, folders, ``-`` for the standard input, or ``hf:NAME[@CONFIG][:SPLIT]`` for a
            data set of the Hugging Face hub.
        field: that holds the text in a line of JSON, a CSV or Parquet column, a data set.
        format: from ``FORMATS``; ``auto`` goes by each file's suffix, and takes the standard input
            for lines of JSON.
        standard_input: file that holds what came in through ``-``.
    """

    paths: tuple[str, ...]
    field: str = "text"
    format: str = "auto"
    standard_input: Path | None = None

    def sources(self) -> list[str]:
        """Every file of ``paths``, folders' in the order of their names, hidden ones left out.

        Raises:
            ValueError: if a path does not exist, a folder is empty or an option is unknown.
        """
        if self.format not in FORMATS:
            raise ValueError(f"format ({self.format}) must be one of {', '.join(FORMATS)}")
        found: list[str] = []
        for path in self.paths:
            root = Path(path).expanduser()
            if path == STANDARD_INPUT or path.startswith(HUGGING_FACE):
                found.append(path)
            elif not root.exists():
                raise ValueError(f"{path} does not exist: give files, folders, - or hf:NAME")
            elif root.is_dir():
                files = _files_below(root)
                if not files:
                    raise ValueError(f"{path} holds no file")
                found += files
            else:
                found.append(str(root))
        return found

    def file_of(self, source: str) -> Path | None:
        """The file behind one of ``sources()``; None for a data set of the hub."""
        if source == STANDARD_INPUT:
            return self.standard_input
        return None if source.startswith(HUGGING_FACE) else Path(source)

    def read(self, source: str, *, whole: bool = False) -> Iterator[Raw]:
        """The documents of one of ``sources()``.

        Args:
            source: which.
            whole: look through a long file before its first piece: if a later one is not UTF-8, it
                comes as that piece alone.

        Raises:
            ValueError: if it cannot be read as what it is.
        """
        if source.startswith(HUGGING_FACE):
            yield from _of_hugging_face(source, self.field)
            return
        kind = self.format if self.format != "auto" else _kind(source)
        if kind == "parquet":
            yield from _of_parquet(source, self.field)
            return
        file = self.file_of(source)
        assert file is not None, "the standard input is kept in a file first"
        shown = "standard input" if source == STANDARD_INPUT else source
        with ExitStack() as stack, _damage_named(shown):
            position, stream = _open(file, stack)
            if kind == "text" and whole and (bad := _undecodable(shown, file)):
                yield bad
            elif kind == "jsonl":
                yield from _of_lines(shown, stream, position)
            elif kind == "csv":
                yield from _of_csv(shown, stream, position, self.field)
            else:
                yield from _of_text(shown, stream, position)


@contextmanager
def _damage_named(shown: str) -> Iterator[None]:
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise ValueError(f"{shown} is damaged or cut short: {error}") from error


def _undecodable(shown: str, file: Path) -> Raw | None:
    """The first piece of a file of several that is not UTF-8, as a document of its own."""
    with ExitStack() as stack:
        position, stream = _open(file, stack)
        for raw in _of_text(shown, stream, position):
            try:
                raw.data.decode()
            except UnicodeDecodeError:
                return raw._replace(first=True, last=True)
    return None


def _files_below(root: Path) -> list[str]:
    """In the order of their names, folder by folder, hidden ones left out."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (os.path.join(folder, name) for name in names if not name.startswith("."))
        found += [path for path in paths if os.path.isfile(path)]
    return sorted(found, key=lambda path: path.split(os.sep))


def _kind(source: str) -> str:
    if source == STANDARD_INPUT:
        return "jsonl"
    name = re.sub(r"\.(gz|zst)$", "", source.lower())
    return _SUFFIXES.get(Path(name).suffix, "text")


def _open(file: Path, stack: ExitStack) -> tuple[IO[bytes], IO[bytes]]:
    """The file as it lies there, which tells how far it was read, and its decompressed content."""
    raw = stack.enter_context(file.open("rb"))
    if file.suffix.lower() == ".gz":
        return raw, stack.enter_context(cast(IO[bytes], gzip.open(raw)))
    if file.suffix.lower() == ".zst":
        return raw, stack.enter_context(io.BufferedReader(_Zstandard(raw), _ZSTD_BLOCK))
    if file.suffix.lower() in _NOT_READ:
        raise ValueError(f"{file} is compressed as {file.suffix}: only .gz and .zst are read")
    return raw, raw


class _Zstandard(io.RawIOBase):
    """The content of all frames of a file; zstandard's own reader takes a cut one for whole."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._found = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._found:
            data = self._raw.read(_ZSTD_BLOCK)
            if not data:
                if self._frame is not None:
                    raise EOFError("it ends within a frame")
                return 0
            found = []
            while data:
                if self._frame is None:
                    self._frame = zstandard.ZstdDecompressor().decompressobj()
                found.append(self._frame.decompress(data))
                data = self._frame.unused_data
                if self._frame.eof:
                    self._frame = None
            self._found = b"".join(found)
        size = min(len(buffer), len(self._found))
        buffer[:size], self._found = self._found[:size], self._found[size:]
        return size


def _of_lines(source: str, stream: IO[bytes], position: IO[bytes]) -> Iterator[Raw]:
    read = 0
    for number, line in enumerate(stream, start=1):
        if number % _LINES_PER_TELL == 0:
            read = position.tell()
        if line.strip():
            yield Raw(line, f"{source}, line {number},", True, 0, True, True, read)


def _of_text(source: str, stream: IO[bytes], position: IO[bytes]) -> Iterator[Raw]:
    """The file as one document, cut after a newline where there is one, never in a character."""
    offset, rest = 0, b""
    while True:
        read = stream.read(PIECE - len(rest))
        data = rest + read
        if not read:
            break
        if len(data) < PIECE:
            rest = data
            continue
        end = data.rfind(b"\n", PIECE // 2) + 1 or _last_character(data)
        yield Raw(data[:end], source, False, offset, offset == 0, False, position.tell())
        offset, rest = offset + end, data[end:]
    yield Raw(data, source, False, offset, offset == 0, True, position.tell())


def _last_character(data: bytes) -> int:
    """Where the last character begins; the end, if that is no UTF-8."""
    for back in range(1, 5):
        if data[-back] & 0xC0 != 0x80:
            return len(data) - back
    return len(data)


def _of_csv(source: str, stream: IO[bytes], position: IO[bytes], field: str) -> Iterator[Raw]:
    csv.field_size_limit(2**31 - 1)
    name = re.sub(r"\.(gz|zst)$", "", source.lower())
    # What is no UTF-8 goes through as it is, to be found in its row.
    text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
    rows = csv.DictReader(text, delimiter="\t" if name.endswith(".tsv") else ",")
    try:
        if field not in (rows.fieldnames or ()):
            columns = ", ".join(rows.fieldnames or ())
            raise ValueError(f"{source} has no column {field!r}, but {columns}: set the field")
        for row in rows:
            place = f"{source}, line {rows.line_num},"
            if row[field] is None:
                raise ValueError(f"{place} has no column {field!r}")
            data = row[field].encode(errors="surrogateescape")
            yield Raw(data, place, False, 0, True, True, position.tell())
    except csv.Error as error:
        raise ValueError(f"{source}, line {rows.line_num} is no CSV: {error}") from error


def _of_parquet(source: str, field: str) -> Iterator[Raw]:
    try:
        from pyarrow import parquet
        from pyarrow.lib import ArrowException
    except ImportError as error:
        raise ValueError(f"{source} needs pyarrow: pip install 'packformer[parquet]'") from error
    try:
        file = parquet.ParquetFile(source)
        if field not in file.schema_arrow.names:
            columns = ", ".join(file.schema_arrow.names)
            raise ValueError(f"{source} has no column {field!r}, but {columns}: set the field")
        size, rows, number = Path(source).stat().st_size, max(1, file.metadata.num_rows), 0
        for batch in file.iter_batches(batch_size=1024, columns=[field]):
            for value in batch.column(0).to_pylist():
                number += 1
                place = f"{source}, row {number},"
                if not isinstance(value, str):
                    raise ValueError(f"{place} has no text in the column {field!r}")
                yield Raw(value.encode(), place, False, 0, True, True, size * number // rows)
    except ArrowException as error:
        raise ValueError(f"{source} is no Parquet file, or damaged: {error}") from error


def _of_hugging_face(source: str, field: str) -> Iterator[Raw]:
    try:
        import datasets
    except ImportError as error:
        raise ValueError(f"{source} needs datasets: pip install 'packformer[hf]'") from error
    name, _, split = source.removeprefix(HUGGING_FACE).partition(":")
    name, _, config = name.partition("@")
    try:
        rows = datasets.load_dataset(name, config or None, split=split or "train", streaming=True)
    except Exception as error:  # network, name, configuration: each of its own type
        raise ValueError(f"{source} cannot be loaded: {error}") from error
    for number, row in enumerate(rows, start=1):
        place = f"{source}, row {number},"
        if not isinstance(row.get(field), str):
            raise ValueError(f"{place} has no text in the field {field!r}, but {', '.join(row)}")
        yield Raw(row[field].encode("utf-8", "surrogatepass"), place, False, 0, True, True, 0)


def text_of(raw: Raw, field: str) -> str:
    """The text of a document or piece.

    Raises:
        UndecodableError: if it is not UTF-8.
        ValueError: if a line is no JSON or lacks the field.
    """
    try:
        text = raw.data.decode("utf-8")
    except UnicodeDecodeError as error:
        where = f"byte {raw.offset + error.start}"
        raise UndecodableError(f"{raw.place} is not UTF-8 ({where})") from error
    if raw.first:
        text = text.removeprefix("\ufeff")  # Windows marks the beginning of its files
    if not raw.is_json:
        return text
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{raw.place} is no JSON that can be read: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(
            f"{raw.place} is a JSON {_json_type(record)}, not an object with {field!r}"
        )
    if field not in record:
        names = ", ".join(record) or "none"
        raise ValueError(f"{raw.place} has no field {field!r}, but {names}: set the field")
    found = record[field]
    if not isinstance(found, str):
        raise ValueError(f"{raw.place} has a {_json_type(found)} in the field {field!r}, no text")
    try:
        found.encode()
    except UnicodeEncodeError as error:  # half a surrogate pair, which JSON can spell
        where = f"character {error.start} of its text"
        raise UndecodableError(f"{raw.place} is not UTF-8 ({where})") from error
    return found


def _json_type(value: Any) -> str:
    names = {bool: "boolean", int: "number", float: "number", list: "array", dict: "object"}
    return names.get(type(value), "null" if value is None else "string")


class UndecodableError(ValueError):
    """A document that is not UTF-8."""
