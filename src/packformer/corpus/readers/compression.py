"""Streams of a file's decompressed content: complete or an error, and in bounded memory."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import zstandard

from packformer.corpus.documents import UnreadableFileError
from packformer.corpus.readers.zstandard_blocks import ZstandardContent
from packformer.corpus.wording import cause

COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
"""Suffixes of what is decompressed."""
_ARCHIVES = (".zip", ".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst", ".7z", ".rar")
_NOT_READ = (".lzma", ".lz4", ".br", ".lzo", ".sz", ".z")
_BUFFER = 2**18
_LZMA_MEMORY = 2**30  # what xz itself makes needs at most 65 MiB, by hand up to 1.5 GiB
_TAR_MARK = slice(257, 262)


class Content(NamedTuple):
    """An open file.

    Attributes:
        stream: its content, decompressed.
        raw: the file as it lies there, which tells how far it was read.
    """

    stream: io.BufferedReader
    raw: IO[bytes]


@contextmanager
def open_content(file: Path, shown: str) -> Iterator[Content]:
    """Opens a file by its suffix.

    Args:
        file: which.
        shown: how messages call it.

    Raises:
        UnreadableFileError: if it is an archive, or damaged or cut short; also while it is read.
    """
    suffix = file.suffix.lower()
    _refuse_unread(Path(shown), suffix)
    with file.open("rb") as raw:
        try:
            stream = _decompressed(raw, suffix)
            if stream.peek(_TAR_MARK.stop)[_TAR_MARK] == b"ustar":
                raise UnreadableFileError(shown, "is a tar archive: unpack it")
            yield Content(stream, raw)
        except (
            EOFError,
            gzip.BadGzipFile,
            zlib.error,
            zstandard.ZstdError,
            lzma.LZMAError,
            _DamagedError,
        ) as error:
            raise UnreadableFileError(
                shown, f"is damaged or cut short ({cause(error)}): replace it"
            ) from error


def name_inside(source: str) -> str:
    """The name of what a file holds when it is decompressed, in lower case."""
    name = source.lower()
    return name[: name.rindex(".")] if name.endswith(COMPRESSED) else name


def _refuse_unread(shown: Path, suffix: str) -> None:
    inside = Path(name_inside(str(shown))).suffix
    for archive in (suffix, inside):
        if archive in _ARCHIVES:
            raise UnreadableFileError(str(shown), f"is an archive ({archive}): unpack it")
    if suffix in _NOT_READ:
        raise UnreadableFileError(
            str(shown),
            f"is compressed as {suffix}, which is not read: unpack it, or compress it as "
            f"{', '.join(COMPRESSED[:-1])} or {COMPRESSED[-1]}",
        )


def _decompressed(raw: io.BufferedReader, suffix: str) -> io.BufferedReader:
    if suffix == ".gz":
        return io.BufferedReader(cast(Any, gzip.open(raw)), _BUFFER)
    if suffix == ".zst":
        return io.BufferedReader(ZstandardContent(raw), _BUFFER)
    if suffix == ".bz2":
        return io.BufferedReader(_Streams(raw, bz2.BZ2Decompressor), _BUFFER)
    if suffix == ".xz":
        return io.BufferedReader(_Streams(raw, _xz), _BUFFER)
    return raw


def _xz() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY)


class _DamagedError(Exception):
    """A compressed file that is not what its format says."""


class _Streams(io.RawIOBase):
    """The content of all streams of a file. Python's own readers silently end at a second stream
    whose beginning is damaged."""

    def __init__(self, raw: IO[bytes], make: Any) -> None:
        self._raw = raw
        self._make = make
        self._stream: Any = None
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = b""
        while not found:
            if self._stream is None:
                if not self._begins():
                    return 0
                self._stream = self._make()
            elif self._stream.needs_input and not self._rest:
                self._rest = self._raw.read(_BUFFER)
                if not self._rest:
                    raise EOFError("it ends within a stream")
            try:
                found = self._stream.decompress(self._rest, len(buffer))
            except OSError as error:  # of bz2
                raise _DamagedError(error) from error
            self._rest = b""
            if self._stream.eof:
                self._rest, self._stream = self._stream.unused_data, None
        buffer[: len(found)] = found
        return len(found)

    def _begins(self) -> bool:
        """Whether there is another stream; zeros may come before it."""
        rest = self._rest.lstrip(b"\0")
        while not rest and (read := self._raw.read(_BUFFER)):
            rest = read.lstrip(b"\0")
        self._rest = rest
        return bool(rest)
