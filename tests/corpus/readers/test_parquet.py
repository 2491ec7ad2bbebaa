"""Parquet columns of any kind of text."""

import tracemalloc

import pytest

from packformer.corpus.documents import InvalidDocumentError, UndecodableError, text_of
from packformer.corpus.input import Input

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

TEXTS = ["one", None, "zwei\nZeilen", "", "東京"]


def raws(tmp_path, column, field="text", **options):
    file = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"n": [1] * len(column), "text": column}), file, **options)
    return list(Input((str(file),), field=field).read(str(file)))


@pytest.mark.parametrize(
    "kind", ["string", "large_string", "binary", "large_binary", "string_view", "dictionary"]
)
def test_text_of_any_type_is_read_and_what_is_missing_is_null(tmp_path, kind):
    column = pyarrow.array([text and text.encode() for text in TEXTS], pyarrow.binary())
    if kind == "dictionary":
        column = column.cast(pyarrow.string()).dictionary_encode()
    else:
        column = column.cast(getattr(pyarrow, kind)())
    assert [text_of(raw, "text") for raw in raws(tmp_path, column)] == TEXTS


@pytest.mark.parametrize("version", ["1.0", "2.6"])
@pytest.mark.parametrize("group", [1, 3, 100])
def test_groups_of_rows_and_versions_change_nothing(tmp_path, version, group):
    found = raws(tmp_path, pyarrow.array(TEXTS * 50), version=version, row_group_size=group)
    assert [text_of(raw, "text") for raw in found] == TEXTS * 50


def test_members_of_a_column_have_dots_in_their_names(tmp_path):
    column = pyarrow.array([{"body": {"raw": "a"}, "n": 1}, {"body": None, "n": 2}, None])
    found = raws(tmp_path, column, "text.body.raw")
    assert [text_of(raw, "text.body.raw") for raw in found] == ["a", None, None]
    with pytest.raises(
        ValueError, match=r"has no column 'text.title', but text.body, text.n: set --f"
    ):
        raws(tmp_path, column, "text.title")


def test_what_is_not_utf8_is_found_in_its_row(tmp_path):
    column = pyarrow.array([b"good", b"\xff", b"good too"], pyarrow.binary())
    good, bad, other = raws(tmp_path, column)
    assert [text_of(good, "text"), text_of(other, "text")] == ["good", "good too"]
    with pytest.raises(UndecodableError, match=r"a.parquet, row 2, is not UTF-8 \(byte 0\)"):
        text_of(bad, "text")


@pytest.mark.parametrize("column", [[1, 2], [["a"], ["b"]], [{"a": 1}, {"a": 2}], [True, None]])
def test_columns_of_no_text_are_refused(tmp_path, column):
    with pytest.raises(
        ValueError,
        match=r"a.parquet has .* in the column 'text', not text: set --field or data.field$",
    ):
        raws(tmp_path, pyarrow.array(column))


def test_a_column_of_objects_is_told_with_their_texts(tmp_path):
    members = [("body", pyarrow.string()), ("image", pyarrow.binary()), ("n", pyarrow.int64())]
    column = pyarrow.array([{"body": "b", "image": b"", "n": 1}], pyarrow.struct(members))
    with pytest.raises(ValueError, match=r"not text: set --field or data.field to text.body$"):
        raws(tmp_path, column)


def test_a_column_of_nulls_is_null(tmp_path):
    found = raws(tmp_path, pyarrow.nulls(3))
    assert [text_of(raw, "text") for raw in found] == [None] * 3


def test_a_row_has_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr("packformer.corpus.readers.parquet.RECORD_BYTES", 100)
    good, bad = raws(tmp_path, pyarrow.array(["x" * 100, "x" * 101]))
    assert text_of(good, "text") == "x" * 100
    with pytest.raises(InvalidDocumentError, match=r"a.parquet, row 2, is longer than"):
        text_of(bad, "text")


def test_one_large_group_of_rows_is_not_taken_into_memory(tmp_path):
    file = tmp_path / "a.parquet"
    texts = [f"{number} " * 300 for number in range(40_000)]
    size = sum(map(len, texts))
    table = pyarrow.table({"text": texts})
    parquet.write_table(table, file, use_dictionary=False)
    del texts, table
    before = pyarrow.total_allocated_bytes()
    most = found = 0
    tracemalloc.start()
    for raw in Input((str(file),)).read(str(file)):
        found += len(raw.data)
        most = max(most, pyarrow.total_allocated_bytes() - before)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == size > 50e6
    assert most + peak < size / 2
