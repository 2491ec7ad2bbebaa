"""Zstandard files (RFC 8878), block by block: bounded memory, and cut ones are noticed.

The library's stream reader takes a file that was cut for a whole one, and its other one gives
all that a piece of input holds, which may be ten thousand times its size. A block holds 128 KiB at
most, so blocks are handed to the latter one at a time.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO, Any

import zstandard

MAX_WINDOW = 2**31
"""Bytes that a frame may refer back to, as ``zstd --long=31`` makes them; as much memory is taken
by a frame that holds as much."""
_MAGIC = 0xFD2FB528
_SKIPPABLE = 0x184D2A50  # and the 15 numbers after it
_RLE = 1  # a block of one byte, repeated
_BLOCK_HEADER = 3
_MAX_HEADER = 18  # of a frame


class ZstandardContent(io.RawIOBase):
    """The content of all frames of a file.

    Args:
        raw: the file.

    Raises:
        EOFError: if it ends within a frame, while it is read.
        zstandard.ZstdError: if it is damaged, while it is read.
    """

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._has_checksum = False
        self._found = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._found:
            if self._frame is None:
                if not self._begin_frame():
                    return 0
            else:
                self._found = memoryview(self._block(self._frame))
        size = min(len(buffer), len(self._found))
        buffer[:size] = self._found[:size]
        self._found = self._found[size:]
        return size

    def _begin_frame(self) -> bool:
        """False at the end of the file."""
        magic = self._raw.read(4)
        if not magic:
            return False
        magic += self._take(4 - len(magic))
        number = int.from_bytes(magic, "little")
        if number & ~0xF == _SKIPPABLE:
            self._skip(int.from_bytes(self._take(4), "little"))
            return True
        if number != _MAGIC:
            raise zstandard.ZstdError("what begins a frame is no mark of one")
        descriptor = self._take(1)
        flags = descriptor[0]
        is_single_segment = bool(flags & 0x20)
        size_bytes = (int(is_single_segment), 2, 4, 8)[flags >> 6]
        dictionary_bytes = (0, 1, 2, 4)[flags & 0x3]
        rest = self._take((not is_single_segment) + dictionary_bytes + size_bytes)
        self._has_checksum = bool(flags & 0x4)
        self._frame = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()
        self._frame.decompress(magic + descriptor + rest)
        return True

    def _block(self, frame: zstandard.ZstdDecompressionObj) -> bytes:
        header = self._take(_BLOCK_HEADER)
        number = int.from_bytes(header, "little")
        is_last, kind, size = number & 1, number >> 1 & 3, number >> 3
        data = self._take(1 if kind == _RLE else size)
        if is_last and self._has_checksum:
            data += self._take(4)
        found = frame.decompress(header + data)
        if is_last:
            self._frame = None
        return found

    def _take(self, size: int) -> bytes:
        data = self._raw.read(size)
        if len(data) < size:
            raise EOFError("it ends within a frame")
        return data

    def _skip(self, size: int) -> None:
        while size:
            size -= len(self._take(min(size, 2**16)))


def window_of(file: Path) -> int:
    """Bytes of memory that the first frame of a file may need; 0 if that cannot be told."""
    with file.open("rb") as stream:
        head = stream.read(_MAX_HEADER)
    try:
        return zstandard.get_frame_parameters(head).window_size
    except zstandard.ZstdError:
        return 0
