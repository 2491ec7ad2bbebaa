"""JSON however a file holds it: lines, an array, objects over several lines."""

import gzip
import json
import logging
import random
import tracemalloc

import pytest
import zstandard

from packformer.corpus import documents, formats
from packformer.corpus.documents import InvalidDocumentError, text_of
from packformer.corpus.input import Input
from packformer.corpus.readers import json_layout, json_records

TEXTS = ["one", "zwei\nZeilen", "a\u2028b\x85c\u2029d", "три", "]}, {[", ""]
RECORDS = [{"id": n, "text": text, "meta": {"tags": [n]}} for n, text in enumerate(TEXTS)]
LINES = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS).encode()
SPELLINGS = {
    "lines": LINES,
    "lines without the last end": LINES.rstrip(),
    "lines after a mark": b"\xef\xbb\xbf" + LINES,
    "Windows lines": LINES.replace(b"\n", b"\r\n"),
    "old Macintosh lines": LINES.replace(b"\n", b"\r"),
    "blank lines": b"\n" + LINES.replace(b"\n", b"\n\n \n"),
    "an array": json.dumps(RECORDS).encode(),
    "an array after a mark": b"\xef\xbb\xbf" + json.dumps(RECORDS).encode(),
    "an indented array": json.dumps(RECORDS, indent=2).encode() + b"\n",
    "indented objects": "\n".join(json.dumps(record, indent=2) for record in RECORDS).encode(),
    "all on one line": " ".join(json.dumps(record) for record in RECORDS).encode(),
}
SUFFIXES = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


def texts(path, **options):
    source = Input((str(path),), **options)
    return [text_of(raw, source.field) for name in source.sources() for raw in source.read(name)]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("suffix", [".json", ".json.gz", ".json.zst", ".jsonl", ".jsonl.gz"])
def test_objects_are_documents_however_they_are_written(tmp_path, spelling, suffix):
    compress = SUFFIXES[suffix[suffix.rindex(".") :] if suffix.count(".") == 2 else ""]
    (tmp_path / f"a{suffix}").write_bytes(compress(SPELLINGS[spelling]))
    assert texts(tmp_path) == TEXTS


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("read", [1, 2, 3, 7, 50])
def test_where_reading_stops_for_a_moment_changes_nothing(tmp_path, monkeypatch, spelling, read):
    monkeypatch.setattr(json_records, "_READ", read)
    (tmp_path / "a.json").write_bytes(SPELLINGS[spelling])
    assert texts(tmp_path) == TEXTS


@pytest.mark.parametrize(
    "content",
    [
        '{"name": "settings", "text_size": 3}',
        json.dumps({"cells": [{"source": "x"}]}, indent=1),
        '{"body": "x"}\n',
        "[1, 2, 3]",
        '["a", 3]',
        '["a", "b',
        '"text"',
        "",
        "{% raw %}",
        "[ {broken",
        "no JSON at all",
        "{" * 5000,
    ],
)
def test_other_json_files_are_text_and_said_to_be(tmp_path, caplog, content):
    (tmp_path / "a.json").write_text(content)
    assert texts(tmp_path) == [content]
    with caplog.at_level(logging.WARNING):
        warnings = Input((str(tmp_path),)).announce()
    (message,) = warnings
    assert message.endswith("a.json: JSON without the field 'text', read as plain text")
    assert message in caplog.text


@pytest.mark.parametrize("content", ['["a", "b"]', json.dumps(["text"] * 20_000, indent=1)])
def test_an_array_of_strings_is_one_text_and_told_how_it_would_be_many(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    assert texts(tmp_path) == [content]
    (message,) = Input((str(tmp_path),)).announce()
    assert message.endswith(
        "a.json: an array of strings, read as plain text, one document: make each string an object "
        "with it in the field 'text' if each is a document"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"body": "a"}\n{"body": "b"}\n', r"a.json, line 1, has no field 'text', but body: set"),
        (
            '[{"body": "a"}]',
            r"a.json, record 1, has no field 'text', but body: set --field or data.field",
        ),
    ],
)
def test_lines_and_arrays_of_objects_without_the_field_are_refused(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InvalidDocumentError, match=message):
        texts(tmp_path)
    assert texts(tmp_path, field="body")[0] == "a"


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "part-00000", "a.log"])
def test_objects_under_another_name_are_warned_of(tmp_path, caplog, name):
    compress = gzip.compress if name.endswith(".gz") else bytes
    (tmp_path / name).write_bytes(compress(LINES))
    assert texts(tmp_path) == [LINES.decode()]
    with caplog.at_level(logging.WARNING):
        Input((str(tmp_path),)).announce()
    assert f"{name}: JSON objects, but read as plain text for the name" in caplog.text
    assert "set the format to jsonl if the field 'text' of each is a document" in caplog.text
    assert texts(tmp_path, format="jsonl") == TEXTS


def test_what_the_content_decided_is_said_once_for_all_files(tmp_path, caplog):
    for number in range(5):
        (tmp_path / f"{number}.json").write_bytes(LINES)
    (tmp_path / "array.json").write_bytes(SPELLINGS["an array"])
    (tmp_path / "plain.txt").write_text("{ braces } and [brackets]\nalone are no JSON")
    with caplog.at_level(logging.INFO):
        assert Input((str(tmp_path),)).announce() == []
    first, second = caplog.messages
    assert first.endswith(
        "2.json and 2 more: lines of JSON: the field 'text' of each is a document"
    )
    assert "array.json: an array of JSON objects: the field 'text' of each" in second


def test_a_head_that_ends_anywhere_decides_as_the_whole(tmp_path, monkeypatch):
    """Lines longer than what is looked at are still lines."""
    for module in (formats, json_layout):
        monkeypatch.setattr(module, "HEAD", 40)
    rows = [{"text": "word " * 50}] * 3
    for name, content in {
        "lines.json": "".join(json.dumps(row) + "\n" for row in rows),
        "array.json": json.dumps(rows),
        "indented.json": json.dumps(rows, indent=4),
        "object.json": json.dumps(rows[0], indent=4),
    }.items():
        (tmp_path / name).write_text(content)
        wanted = 1 if name == "object.json" else 3
        assert texts(tmp_path / name) == ["word " * 50] * wanted, name


def test_a_damaged_first_line_costs_no_other(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": \n' + LINES)
    source = Input((str(tmp_path),))
    first, *others = source.read(*source.sources())
    with pytest.raises(InvalidDocumentError, match=r"a.jsonl, line 1, cannot be read as JSON"):
        text_of(first, "text")
    assert [text_of(raw, "text") for raw in others] == TEXTS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '[{"text": "a"}, {"text": "b"}',
            r"a.json, line 1, cannot be read as JSON \('\]' is missing\): mend it$",
        ),
        (
            '[{"text": "a"},\n {"text": "b',
            r"a.json, line 2, cannot be read as JSON \(Unterminated string\): mend it$",
        ),
        (
            '[{"text": "a"}\n {"text": "b"}]',
            r"a.json, line 2, cannot be read as JSON \(',' is missing\): mend it$",
        ),
        (
            '[{"text": "a"}]\n[{"text": "b"}]',
            r"a.json, line 2, .* \(there is more after the array\): mend it$",
        ),
        (
            '{\n"text": "a"\n}\n{\n"text" 3\n}',
            r"a.json, line 5, cannot be read as JSON \(Expecting ':' delimiter\): mend it$",
        ),
    ],
)
def test_damage_between_objects_ends_reading(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        texts(tmp_path)


@pytest.mark.parametrize("spelling", ['{"text": "%s"}\n', '[{"text": "%s"}]', '{\n"text": "%s"}'])
@pytest.mark.parametrize("over", [-1, 0, 1, 100_000])
def test_an_object_has_a_bound_and_reading_one_beyond_it_too(tmp_path, monkeypatch, spelling, over):
    bound = 2**16
    for module in (documents, json_records):
        monkeypatch.setattr(module, "RECORD_BYTES", bound)
    monkeypatch.setattr(json_records, "_READ", 2**12)
    frame = len(spelling.strip("[]\n") % "")
    text = "x" * (bound - frame + over)
    (tmp_path / "a.json.gz").write_bytes(gzip.compress((spelling % text).encode()))
    if over <= 0:
        assert texts(tmp_path) == [text]
    else:
        with pytest.raises(ValueError, match=r"longer than 64 MiB, the most that one record may"):
            texts(tmp_path)


def test_a_line_beyond_the_bound_costs_its_neighbours_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(json_records, "RECORD_BYTES", 2**16)
    (tmp_path / "a.jsonl").write_bytes(LINES + b'{"text": "' + b"x" * 2**22 + b'"}\n' + LINES)
    source = Input((str(tmp_path),))
    tracemalloc.start()
    raws = list(source.read(*source.sources()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**22
    assert len(raws) == 2 * len(TEXTS) + 1
    with pytest.raises(InvalidDocumentError, match=rf"line {len(TEXTS) + 1}, is longer than 64 Mi"):
        text_of(raws[len(TEXTS)], "text")


@pytest.mark.parametrize("seed", range(20))
def test_random_objects_come_back(tmp_path, monkeypatch, seed):
    rng = random.Random(seed)
    monkeypatch.setattr(json_records, "_READ", rng.randint(1, 300))
    letters = '{}[]",:\\\n\r\t \u2028é東😀a'
    wanted = ["".join(rng.choices(letters, k=rng.randint(0, 40))) for _ in range(rng.randint(2, 9))]
    rows = [{"n": rng.random(), "text": text, "more": [None, {"text": 1}]} for text in wanted]
    ascii_only = rng.random() < 0.5
    indent = rng.choice([None, 0, 3])
    if rng.random() < 0.5:
        content = json.dumps(rows, indent=indent, ensure_ascii=ascii_only)
    else:
        content = "\n".join(json.dumps(r, indent=indent, ensure_ascii=ascii_only) for r in rows)
    (tmp_path / "a.json").write_bytes(content.encode())
    assert texts(tmp_path) == wanted
