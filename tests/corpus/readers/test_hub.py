"""Data sets of the hub: what cannot be loaded or is no text is named."""

import sys
from types import SimpleNamespace

import pytest

from packformer.corpus.documents import InvalidDocumentError, text_of
from packformer.corpus.readers.hub import read_hub


def give(monkeypatch, rows):
    """Rows instead of those of any data set; an exception among them is raised there."""

    def load_dataset(*_, **__):
        for row in rows:
            if isinstance(row, Exception):
                raise row
            yield row

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))


def test_rows_are_documents(monkeypatch):
    give(monkeypatch, [{"text": "a"}, {"text": None}, {"text": ""}])
    assert [text_of(raw, "text") for raw in read_hub("hf:x", "text")] == ["a", None, ""]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"text": 5},
            r"hf:x, row 2, has a number in the field 'text', not text: set --field or data.field$",
        ),
        (
            {"text": {"n": 1, "body": "b"}},
            r"an object in the field 'text', not text: set --field or data.field to text.body$",
        ),
        (
            {"body": "a"},
            r"hf:x, row 2, has no field 'text', but body: set --field or data.field$",
        ),
        ({}, r"hf:x, row 2, has no field 'text' and no other: fill or remove it$"),
    ],
)
def test_a_row_without_text_costs_no_other(monkeypatch, row, message):
    give(monkeypatch, [{"text": "a"}, row, {"text": "b"}])
    first, bad, last = read_hub("hf:x", "text")
    assert [text_of(first, "text"), text_of(last, "text")] == ["a", "b"]
    with pytest.raises(InvalidDocumentError, match=message):
        text_of(bad, "text")


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (0, r"hf:x cannot be loaded \(no route to it\): check its name, configuration and split, "),
        (1, r"hf:x cannot be loaded after 1 row \(no route to it\): check the network, and give"),
        (2, r"hf:x cannot be loaded after 2 rows \(no route to it\): check the network, and give"),
    ],
)
def test_what_cannot_be_loaded_is_one_line_of_advice(monkeypatch, read, message):
    give(monkeypatch, [{"text": "a"}] * read + [OSError("no\nroute to it.")])
    reading = read_hub("hf:x", "text")
    assert [text_of(next(reading), "text") for _ in range(read)] == ["a"] * read
    with pytest.raises(ValueError, match=message):
        next(reading)
