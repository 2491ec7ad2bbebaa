"""Documents are found and read, whatever they lie in; what cannot be read is named."""

import gzip
import json

import pytest
import zstandard

from packformer.corpus import documents
from packformer.corpus.documents import UndecodableError, text_of
from packformer.corpus.input import Input

TEXTS = ["one", "zwei\nZeilen", "три", ""]
LINES = "".join(json.dumps({"text": text, "n": 1}) + "\n" for text in TEXTS).encode()


def texts(path, **options):
    source = Input((str(path),), **options)
    return [text_of(raw, source.field) for name in source.sources() for raw in source.read(name)]


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".JSONL"])
def test_lines_of_json_are_documents(tmp_path, suffix):
    file = tmp_path / f"a{suffix}"
    file.write_bytes(LINES.replace(b"\n", b"\n\n", 1))
    assert texts(file) == TEXTS


def test_compressed_files_are_read_as_what_they_hold(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(LINES[:50]) + gzip.compress(LINES[50:]))
    frames = [zstandard.compress(LINES[:50]), zstandard.compress(LINES[50:])]
    (tmp_path / "b.jsonl.zst").write_bytes(b"".join(frames))
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress("päckchen".encode()))
    assert texts(tmp_path) == [*TEXTS, *TEXTS, "päckchen"]


def test_columns_are_documents(tmp_path):
    (tmp_path / "a.csv").write_text('n,text\n1,"a, ""b""\nc"\n2,d\n')
    (tmp_path / "b.tsv").write_text("text\tn\ne, f\t1\n")
    assert texts(tmp_path) == ['a, "b"\nc', "d", "e, f"]


def test_parquet_columns_are_documents(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"body": TEXTS, "n": [1] * 4}), tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet", field="body") == TEXTS
    with pytest.raises(ValueError, match=r"a.parquet has no column 'text', but body, n"):
        texts(tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(
        ValueError, match=r"a.parquet cannot be read as Parquet \(.*\): replace it$"
    ):
        texts(tmp_path / "a.parquet", field="body")


def test_a_hub_data_set_is_read_by_its_name(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "train.jsonl").write_bytes(LINES)
    assert texts(f"hf:{tmp_path}:train") == TEXTS


def test_folders_are_read_in_the_order_of_names_without_hidden_files(tmp_path):
    for name in ("b.txt", "a/z.txt", "c.md", ".hidden", ".git/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert texts(tmp_path) == ["a/z.txt", "b.txt", "c.md"]


@pytest.mark.parametrize("text", ["x" * 100, "zeile\n" * 30, "ö" * 61, "\n" * 40, "a\n" + "ü" * 50])
def test_long_files_come_in_pieces_that_split_no_character(tmp_path, monkeypatch, text):
    monkeypatch.setattr(documents, "PIECE", 16)
    file = tmp_path / "a.txt"
    file.write_text(text)
    source = Input((str(file),))
    raws = list(source.read(str(file)))
    assert "".join(text_of(raw, "text") for raw in raws) == text
    assert all(len(raw.data) <= 16 for raw in raws)
    assert [raw.first for raw in raws] == [True] + [False] * (len(raws) - 1)
    assert [raw.last for raw in raws] == [False] * (len(raws) - 1) + [True]


def test_a_mark_of_the_byte_order_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfHallo")
    assert texts(tmp_path) == ["Hallo"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": \n',
            r"a.jsonl, line 2, cannot be read as JSON \(Expecting value at character 11\): m",
        ),
        (
            "a.jsonl",
            b'\n{"body": "a"}\n',
            r"a.jsonl, line 2, has no field 'text', but body: set --field or data.field",
        ),
        (
            "a.jsonl",
            b'["text"]\n',
            r"line 1, is an array, not an object with 'text': write it as \{\"text\": \.\.\.\}$",
        ),
        (
            "a.jsonl",
            b'{"text": []}\n',
            r"line 1, has an array in the field 'text', not text: write it as",
        ),
        (
            "a.jsonl",
            b'{"text": {"body": "b", "n": 1}}\n',
            r"line 1, has an object in the field 'text', not text: set --field or data.field to "
            r"text.body$",
        ),
        (
            "a.jsonl",
            b'{"text": {"body": "b", "title": "t"}}\n',
            r"the field 'text', not text: set .* to one of text.body, text.title$",
        ),
        (
            "a.jsonl",
            b'{"text": {}}\n',
            r"line 1, has an object in the field 'text', not text: write it as",
        ),
        (
            "a.jsonl",
            b'{"text": 5}\n',
            r"line 1, has a number in the field 'text', not text: write it as",
        ),
        ("a.jsonl", b"[" * 100_000, r"line 1, is nested too deeply to be read as JSON: flatten"),
        (
            "a.jsonl",
            b'{"n": ' + b"1" * 5000 + b"}",
            r"line 1, has a number of more than 4,300 digits: wr",
        ),
        ("a.jsonl", b'{"text": "\xff"}\n', r"a.jsonl, line 1, is not UTF-8 \(byte 10\)"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', r"line 1, is not UTF-8 \(character 0 of its text\)"),
        ("a.txt", b"abc\xff", r"a.txt is not UTF-8 \(byte 3\)"),
        ("a.csv", b"a,b\n1,2\n", r"a.csv has no column 'text', but a, b"),
        ("a.csv", b"a,text\n1\n", r"a.csv, line 2, has 1 column, but the first line names 2: add"),
        ("a.csv", b"text\na\n\xff\xfe\n", r"a.csv, line 3, is not UTF-8 \(byte 0\)"),
        ("a.txt.lz4", b"x", r"a.txt.lz4 is compressed as .lz4, which is not read: unpack it"),
        (
            "a.txt.zst",
            zstandard.compress(b"some text" * 10_000)[:-5],
            r"a.txt.zst is damaged or cut",
        ),
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0)[:-9], r"a.jsonl.gz is damaged or cut short"),
        ("a.jsonl.gz", b"no gzip", r"a.jsonl.gz is damaged or cut short"),
        ("a.jsonl.zst", b"no zstandard", r"a.jsonl.zst is damaged or cut short"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        texts(tmp_path / name)


def test_the_place_in_a_long_file_counts_from_its_beginning(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "PIECE", 16)
    (tmp_path / "a.txt").write_bytes(b"x" * 50 + b"\xff" + b"x" * 20)
    with pytest.raises(UndecodableError, match=r"a.txt is not UTF-8 \(byte 50\)"):
        texts(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paths": ("nowhere",)}, r"nowhere does not exist: give files, folders, - or hf:NAME"),
        ({"paths": (".",), "format": "xml"}, r"format \(xml\) must be one of auto, text"),
    ],
)
def test_missing_paths_and_unknown_formats_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Input(**options).sources()


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no file"):
        Input((str(tmp_path),)).sources()


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ('{"a": {"b": "inner"}}', "inner"),
        ('{"a.b": "whole", "a": {"b": "inner"}}', "whole"),
        ('{"a": {"b": null}}', None),
        ('{"a": null}', None),
        ('{"b": "x", "b": "y", "a": {"b": "inner"}}', "inner"),
    ],
)
def test_a_field_of_an_object_in_an_object_has_a_dot(tmp_path, line, text):
    (tmp_path / "a.jsonl").write_text(line)
    assert texts(tmp_path, field="a.b") == [text]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"a": {"c": "x"}}',
            r"line 1, has no field 'a.b', but a.c: set --field or data.field",
        ),
        (
            '{"a": "x"}',
            r"line 1, has no field 'a.b', but a: set --field or data.field",
        ),
        ('{"a": {"b": "x", "b": "y"}}', r"line 1, has the field 'a.b' more than once: keep one$"),
    ],
)
def test_a_field_that_is_not_there_or_twice_is_named(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text(line)
    with pytest.raises(ValueError, match=message):
        texts(tmp_path, field="a.b")
