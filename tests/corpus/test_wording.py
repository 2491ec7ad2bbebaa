"""Every message is one line, parses as a sentence and ends in advice."""

import json

import pytest

from packformer.corpus.wording import cause, listed, missing, not_json, not_text, record_with


@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_few_names_are_all_listed(count):
    names = [f"n{number}" for number in range(count)]
    assert listed(names) == ", ".join(names)


@pytest.mark.parametrize(("count", "more"), [(9, "1"), (30, "22"), (1208, "1,200")])
def test_of_many_names_the_first_are_listed(count, more):
    names = [f"n{number}" for number in range(count)]
    assert listed(names) == f"{', '.join(names[:8])} and {more} more"
    assert listed(names, 3).startswith("n0, n1, n2 and ")


def test_odd_names_stay_short_on_one_line_and_visible():
    found = missing("field", "text", ["", " ", "a\nb", "\udcff", "東京", "x" * 61])
    shown = r"'', ' ', 'a\nb', '\udcff', 東京, " + "x" * 60 + "..."
    assert found == f"has no field 'text', but {shown}: set --field or data.field"


def test_what_is_missing_is_named_with_what_is_there():
    assert (
        missing("field", "text", ["a", "b"])
        == "has no field 'text', but a, b: set --field or data.field"
    )
    assert missing("column", "a.b", []) == "has no column 'a.b' and no other: fill or remove it"


def test_a_long_type_is_shortened():
    found = not_text(f"struct<{'a: string, ' * 50}>", "column", "text")
    assert found.endswith("... in the column 'text', not text: set --field or data.field")
    assert len(found) < 150


@pytest.mark.parametrize("field", ["text", "a.b", 'a"b', "é"])
def test_a_record_is_shown_as_json_writes_it(field):
    value = json.loads(record_with(field, '"x"'))
    for name in field.split("."):
        value = value[name]
    assert value == "x"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as JSON (Expecting value at character 1): mend it"),
        ('{"a', "cannot be read as JSON (Unterminated string at character 2): mend it"),
        ('{"a" 1}', "cannot be read as JSON (Expecting ':' delimiter at character 6): mend it"),
        ('"\\x"', "cannot be read as JSON (Invalid \\escape at character 2): mend it"),
        ('"\\u12"', "cannot be read as JSON (Invalid \\uXXXX escape at character 3): mend it"),
        ('"\n"', "cannot be read as JSON (Invalid control character at character 2): mend it"),
        ("1 2", "cannot be read as JSON (Extra data at character 3): mend it"),
        ("[" * 100_000, "is nested too deeply to be read as JSON: flatten or remove it"),
        ("1" * 5000, "has a number of more than 4,300 digits: write it as a string, or remove it"),
    ],
)
def test_json_that_cannot_be_read(text, message):
    with pytest.raises((ValueError, RecursionError)) as error:  # noqa: PT011  of the decoder
        json.loads(text)
    assert not_json(error.value) == message
    assert not_json(error.value, place=False) == message.replace(
        f" at character {getattr(error.value, 'pos', 0) + 1}", ""
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Not a gzipped file (b'no')", "Not a gzipped file"),
        ("7 bytes (of 8) are there.", "7 bytes (of 8) are there"),
        ("two\n  lines", "two lines"),
        ("", "OSError"),
        ("(all)", "OSError"),
    ],
)
def test_causes_fit_in_brackets(text, words):
    assert cause(OSError(text)) == words
