"""Recognises a text's encoding from its bytes."""

from __future__ import annotations

_MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_ZEROS = 0.2  # share of a file's first bytes: Latin letters in UTF-16 have one in two


def other_encoding(head: bytes) -> str | None:
    """The encoding that a file's first bytes show if it is not UTF-8, in words; else None."""
    for mark, name in _MARKS.items():
        if head.startswith(mark):
            return f"is not UTF-8 but {name}: convert it, as with iconv -f {name} -t UTF-8"
    if head.count(0) > _ZEROS * len(head):
        return (
            "is not UTF-8 text (many of its bytes are zero, as in UTF-16 and binary files): "
            "convert or remove it"
        )
    return None
