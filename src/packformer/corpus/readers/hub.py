"""Data sets of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator

from packformer.corpus.documents import Form, InvalidDocumentError, Raw, json_type, value_of

HUGGING_FACE = "hf:"


def read_hub(source: str, field: str) -> Iterator[Raw]:
    """The rows of ``hf:NAME[@CONFIG][:SPLIT]``.

    Raises:
        ValueError: if it cannot be loaded.
    """
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
        yield _document(row, f"{source}, row {number},", field)


def _document(row: dict[str, object], place: str, field: str) -> Raw:
    try:
        value = value_of(row, field, place)
    except InvalidDocumentError as error:
        reason = str(error).removeprefix(place).strip()
        return Raw(reason.encode(), place, Form.INVALID)
    if value is None:
        return Raw(b"", place, Form.NULL)
    if not isinstance(value, str):
        reason = f"has {json_type(value)} in the field {field!r}, no text"
        return Raw(reason.encode(), place, Form.INVALID)
    return Raw(value.encode("utf-8", "surrogatepass"), place, Form.TEXT)
