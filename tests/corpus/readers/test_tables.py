"""Tables: every row is a document, or an error that names its line."""

import csv
import io
import random

import pytest

from packformer.corpus.documents import InvalidDocumentError, text_of
from packformer.corpus.input import Input
from packformer.corpus.readers import tables
from packformer.counted import counted


def texts(path, **options):
    source = Input((str(path),), **options)
    return [text_of(raw, source.field) for name in source.sources() for raw in source.read(name)]


def rows(separator, *lines):
    return "".join(f"{separator.join(line)}\n" for line in (("id", "text"), *lines))


def many(count, special):
    """Rows of which some, by their number, have another text."""
    return [(str(n), special.get(n, f"some words, {n} of them")) for n in range(count)]


def test_an_unbalanced_quote_in_tabs_is_text(tmp_path):
    lines = many(100, {10: '"they said', 50: '"and went', 70: 'five 5" nails"', 80: '"all"'})
    (tmp_path / "a.tsv").write_text(rows("\t", *lines))
    assert texts(tmp_path) == [text for _, text in lines]


@pytest.mark.parametrize("closing", ['"and went', None, 'he said "no"'])
def test_an_unbalanced_quote_in_commas_is_refused_with_its_line(tmp_path, closing):
    lines = [(n, text.replace(",", "")) for n, text in many(100, {10: '"they said'})]
    if closing:
        lines[50] = ("50", closing)
    (tmp_path / "a.csv").write_text(rows(",", *lines))
    end = 52 if closing else 101
    with pytest.raises(
        ValueError, match=rf"a.csv has a quote in lines 12 to {end} that is not closed"
    ):
        texts(tmp_path)
    with pytest.raises(ValueError, match="set quoting to none if quotes are part of the text"):
        texts(tmp_path)
    assert texts(tmp_path, quoting="none") == [text for _, text in lines]


@pytest.mark.parametrize("between", [3, 4, 40])
def test_rows_that_a_quote_swallows_and_another_closes_are_refused(tmp_path, between):
    lines = [(n, text.replace(",", "")) for n, text in many(60, {10: '"they said'})]
    lines[10 + between] = (str(10 + between), 'and went"')
    (tmp_path / "a.csv").write_text(rows(",", *lines))
    message = rf"a.csv, line 12, has a field in quotes that goes on for {between} lines which look"
    with pytest.raises(ValueError, match=message):
        texts(tmp_path)
    assert texts(tmp_path, quoting="none") == [text for _, text in lines]
    assert len(texts(tmp_path, quoting="double")) == 60 - between


def test_a_field_of_many_lines_is_one(tmp_path):
    poem = "\n".join(f"line {n}, and a comma" for n in range(30)) + '\nwith "quotes"\n'
    (tmp_path / "a.csv").write_text(f'id,text\n1,"{poem.replace(chr(34), chr(34) * 2)}"\n2,b\n')
    assert texts(tmp_path) == [poem, "b"]


def test_tabs_that_look_quoted_are_refused_until_told(tmp_path):
    (tmp_path / "a.tsv").write_text('id\ttext\n1\t"she said ""no"" twice"\n')
    with pytest.raises(ValueError, match=r"a.tsv, line 2, has a field that looks quoted: set quo"):
        texts(tmp_path)
    assert texts(tmp_path, quoting="double") == ['she said "no" twice']
    assert texts(tmp_path, quoting="none") == ['"she said ""no"" twice"']


@pytest.mark.parametrize("quoting", ["auto", "double", "none"])
@pytest.mark.parametrize(
    ("row", "count"), [("1,Hello, how are you, friend", 4), ("1", 1), ("1,2,3", 3), (",,,,", 5)]
)
def test_rows_of_another_length_are_refused_with_their_line(tmp_path, quoting, row, count):
    (tmp_path / "a.csv").write_text(f"id,text\n0,fine\n{row}\n2,fine too\n")
    source = Input((str(tmp_path),), quoting=quoting)
    good, bad, other = source.read(*source.sources())
    assert [text_of(good, "text"), text_of(other, "text")] == ["fine", "fine too"]
    message = rf"a.csv, line 3, has {counted(count, 'column')}, but the first line names 2: \w+"
    with pytest.raises(InvalidDocumentError, match=message):
        text_of(bad, "text")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,text\na,b\n", r"a.csv has the column 'text' more than once: keep one$"),
        ("\ntext\na\n", r"a.csv has no column 'text', its first line is empty: name the columns"),
        (
            ",\n1,2\n",
            r"a.csv has no column 'text', but '', '': set --field or data.field",
        ),
        (
            "a;b,c\n1,2\n",
            r"a.csv has no column 'text', but a;b, c: set --field or data.field",
        ),
        ('id,"text\n1,a\n', r"a.csv has a quote in lines 1 to 2 that is not closed as CSV"),
    ],
)
def test_first_lines_that_name_no_text_are_refused(tmp_path, content, message):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        texts(tmp_path)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.CSV"])
def test_the_first_line_shows_what_separates_columns(tmp_path, separator, name):
    (tmp_path / name).write_text(
        rows(separator, ("1", "a, b; c" if separator not in ",;" else "a"))
    )
    assert texts(tmp_path) == ["a, b; c" if separator not in ",;" else "a"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_of_any_system(tmp_path, end, mark):
    content = f'id,text{end}1,a{end}2,"b{end}c"{end}{end}3,{end}'
    (tmp_path / "a.csv").write_bytes(mark + content.encode())
    assert texts(tmp_path) == ["a", f"b{end}c", ""]


def test_other_separators_of_lines_are_text(tmp_path):
    text = "a\u2028b\x85c\x0bd\x0ce\x1cf"
    (tmp_path / "a.csv").write_text(f"id,text\n1,{text}\n")
    (tmp_path / "b.tsv").write_text(f"id\ttext\n1\t{text}\n")
    assert texts(tmp_path) == [text, text]


def test_a_table_without_rows_is_an_empty_document(tmp_path):
    (tmp_path / "a.csv").write_text("id,text\n")
    (tmp_path / "b.csv").write_text("")
    assert texts(tmp_path) == ["", ""]


@pytest.mark.parametrize("content", ['id,text\n1,"' + "x" * 3000, "id,text\n1," + "x" * 3000])
def test_a_row_has_a_bound(tmp_path, monkeypatch, content):
    monkeypatch.setattr(tables, "RECORD_BYTES", 1000)
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(
        ValueError, match=r"a.csv, line 2, begins a row that is longer than 64 MiB, the most"
    ):
        texts(tmp_path)


@pytest.mark.parametrize("seed", range(20))
def test_what_the_csv_module_writes_comes_back(tmp_path, seed):
    rng = random.Random(seed)
    letters = 'ab ,;"\n\té\u2028'
    wanted = ["".join(rng.choices(letters, k=rng.randint(1, 12))) for _ in range(30)]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator=rng.choice(["\n", "\r\n"]))
    writer.writerows([["n", "text", "more"], *([n, text, "x"] for n, text in enumerate(wanted))])
    (tmp_path / "a.csv").write_text(stream.getvalue(), newline="")
    assert texts(tmp_path, quoting=rng.choice(["auto", "double"])) == wanted
