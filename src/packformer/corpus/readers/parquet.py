"""Columns of Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packformer.corpus.documents import RECORD_BYTES, TOO_LONG, Form, Raw, UnreadableFileError
from packformer.corpus.left_out import Reason
from packformer.corpus.wording import cause, missing, not_text

_STRINGS = ("string", "large_string", "string_view")
_BINARIES = ("binary", "large_binary", "binary_view")
_BATCH_BYTES = 8 * 2**20
_BATCH_ROWS = 1024
_BUFFER = 2**20


def read_parquet(shown: str, file: Path, field: str) -> Iterator[Raw]:
    """The rows of a column of text, or of bytes that are text; ``a.b`` is the member b of a.

    Raises:
        ValueError: if there is no such column, or the file is damaged.
    """
    try:
        from pyarrow import parquet
        from pyarrow.lib import ArrowException
    except ImportError as error:
        raise ValueError(f"{shown} needs pyarrow: pip install '.[parquet]'") from error
    try:
        # Through a small buffer, a group of rows is not taken into memory whole.
        with parquet.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False) as opened:
            names = _names(opened.schema_arrow, field, shown)
            size, rows, number = file.stat().st_size, max(1, opened.metadata.num_rows), 0
            batches = opened.iter_batches(batch_size=_rows_at_once(opened, field), columns=[field])
            for batch in batches:
                for value in _values(batch.column(0), names[1:], field, shown):
                    number += 1
                    place, read = f"{shown}, row {number},", size * number // rows
                    yield _document(value, place, read)
    except (ArrowException, OSError) as error:
        raise UnreadableFileError(
            shown, f"cannot be read as Parquet ({cause(error)}): replace it"
        ) from error


def _names(schema: Any, field: str, shown: str) -> list[str]:
    """The name of the column, and those of the members in it that lead to the text."""
    if schema.names.count(field) > 1:
        raise ValueError(f"{shown} has the column {field!r} more than once: keep one")
    names = [field] if field in schema.names else field.split(".")
    if names[0] not in schema.names:
        raise ValueError(f"{shown} {missing('column', field, schema.names)}")
    type, outer = schema.field(names[0]).type, names[0]
    for name in names[1:]:
        members = _members(type)
        if name not in members:
            others = [f"{outer}.{member}" for member in members] or [outer]
            raise ValueError(f"{shown} {missing('column', field, others)}")
        type, outer = type.field(name).type, f"{outer}.{name}"
    return names


def _members(type: Any) -> list[str]:
    import pyarrow

    if not pyarrow.types.is_struct(type):
        return []
    return [type.field(number).name for number in range(type.num_fields)]


def _rows_at_once(opened: Any, field: str) -> int:
    """So many that they have about ``_BATCH_BYTES``."""
    most = 1
    metadata = opened.metadata
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for number in range(group.num_columns):
            column = group.column(number)
            if column.path_in_schema == field and group.num_rows:
                most = max(most, column.total_uncompressed_size // group.num_rows)
    return int(max(1, min(_BATCH_ROWS, _BATCH_BYTES // most)))


def _values(column: Any, members: list[str], field: str, shown: str) -> Iterator[Any]:
    """The bytes of each as a buffer, or None."""
    import pyarrow
    from pyarrow import compute

    for member in members:
        column = compute.struct_field(column, member)
    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pyarrow.types.is_null(column.type):
        return iter(column.to_pylist())
    if str(column.type) not in (*_STRINGS, *_BINARIES):
        inside = [n for n in _members(column.type) if str(column.type.field(n).type) in _STRINGS]
        raise ValueError(f"{shown} {not_text(str(column.type), 'column', field, inside)}")
    # As bytes: what is not UTF-8 is then found in its row.
    return (value.as_buffer() if value.is_valid else None for value in column)


def _document(value: Any, place: str, read: int) -> Raw:
    if value is None:
        return Raw(b"", place, Form.NULL, read=read)
    if value.size > RECORD_BYTES:
        return Raw(TOO_LONG.encode(), place, Form.INVALID, read=read, invalid=Reason.TOO_LONG)
    return Raw(value.to_pybytes(), place, Form.TEXT, read=read)
