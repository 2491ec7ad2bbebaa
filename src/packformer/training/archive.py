"""Archives in which every byte has a checksum.

``torch.save`` writes a ZIP archive with a checksum of each tensor, at which ``torch.load`` does not
look, and none of what lies between them. ``seal`` adds that as the archive's comment.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile

_SEAL = "packformer crc32 {:08x}"
_PATTERN = re.compile(rb"packformer crc32 ([0-9a-f]{8})")
_LENGTH = len(_SEAL.format(0))
_LOCAL_HEADER = 30  # bytes, before name and extra field
_END = b"PK\x05\x06"
_END_LENGTH = 22  # bytes without a comment, whose length is the last two


def seal(file: Path) -> None:
    """Appends the checksum to an archive that has no comment yet."""
    with file.open("r+b") as stream:
        stream.seek(-2, os.SEEK_END)
        stream.write(struct.pack("<H", _LENGTH))
        stream.write(_SEAL.format(0).encode())
        stream.flush()
        crc = _sum_between(file)
        stream.seek(-_LENGTH, os.SEEK_END)
        stream.write(_SEAL.format(crc).encode())


def check_archive(file: Path) -> None:
    """Reads all of an archive; one without a seal may have been written before there were any.

    Raises:
        ValueError: if a byte is not as it was written.
        Exception: of any type, if it is no archive.
    """
    with ZipFile(file) as archive:
        _check_sizes(archive, file.stat().st_size)
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - _LENGTH))
        end = stream.read()
    sealed = _PATTERN.fullmatch(end)
    if sealed and _sum_between(file) != int(sealed[1], 16):
        raise ValueError("the checksum of what lies between the tensors is wrong")
    with ZipFile(file) as archive:
        if not sealed and (end[-_END_LENGTH:][:4], end[-2:]) != (_END, b"\0\0"):
            raise ValueError("its end is not as it was written")
        if damaged := archive.testzip():
            raise ValueError(f"the checksum of {damaged} is wrong")


def _check_sizes(archive: ZipFile, size: int) -> None:
    """Refuses an archive in which some bytes stand for any number of others."""
    entries = archive.infolist()
    if any(entry.compress_type != ZIP_STORED for entry in entries):
        raise ValueError("it is compressed")
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError("it is larger inside than outside")


def _sum_between(file: Path) -> int:
    """CRC-32 of all but the tensors and the seal."""
    crc, position = 0, 0
    with ZipFile(file) as archive:
        parts = sorted((part.header_offset, part.compress_size) for part in archive.infolist())
    with file.open("rb") as stream:
        for header, size in parts:
            stream.seek(header + _LOCAL_HEADER - 4)
            start = header + _LOCAL_HEADER + sum(struct.unpack("<HH", stream.read(4)))
            stream.seek(position)
            crc = zlib.crc32(stream.read(start - position), crc)
            position = start + size
        stream.seek(position)
        return zlib.crc32(stream.read()[:-_LENGTH], crc)
