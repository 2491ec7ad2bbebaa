"""Data sets of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator

from packformer.corpus.documents import (
    Form,
    InvalidDocumentError,
    Raw,
    json_type,
    texts_in,
    value_of,
)
from packformer.corpus.left_out import Reason
from packformer.corpus.wording import cause, not_text
from packformer.counted import counted

HUGGING_FACE = "hf:"


def read_hub(source: str, field: str) -> Iterator[Raw]:
    """The rows of ``hf:NAME[@CONFIG][:SPLIT]``.

    Raises:
        ValueError: if it cannot be loaded.
    """
    for number, row in enumerate(_rows(source), start=1):
        yield _document(row, f"{source}, row {number},", field)


def _rows(source: str) -> Iterator[dict[str, object]]:
    try:
        import datasets
    except ImportError as error:
        raise ValueError(f"{source} needs datasets: pip install '.[hf]'") from error
    name, _, split = source.removeprefix(HUGGING_FACE).partition(":")
    name, _, config = name.partition("@")
    if not name.strip():
        raise ValueError(f"{source} names no data set: write hf:NAME, as hf:HuggingFaceFW/fineweb")
    count = 0
    try:  # network, name, configuration: each of its own type
        rows = datasets.load_dataset(name, config or None, split=split or "train", streaming=True)
        for row in rows:
            yield row
            count += 1
    except Exception as error:
        advice = "check its name, configuration and split, and the network"
        if count:
            advice = "check the network, and give the same command again"
        after = f" after {counted(count, 'row')}" * (count > 0)
        raise ValueError(f"{source} cannot be loaded{after} ({cause(error)}): {advice}") from error


def _document(row: dict[str, object], place: str, field: str) -> Raw:
    try:
        value = value_of(row, field, place)
    except InvalidDocumentError as error:
        reason = str(error).removeprefix(place).strip()
        return Raw(reason.encode(), place, Form.INVALID, invalid=error.kind)
    if value is None:
        return Raw(b"", place, Form.NULL)
    if not isinstance(value, str):
        return Raw(
            not_text(json_type(value), "field", field, texts_in(value)).encode(),
            place,
            Form.INVALID,
            invalid=Reason.NO_TEXT,
        )
    return Raw(value.encode("utf-8", "surrogatepass"), place, Form.TEXT)
