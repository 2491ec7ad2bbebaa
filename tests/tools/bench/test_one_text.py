"""One text beside the same text in short documents."""

import json
import re

import pytest

from packformer.cli import main
from packformer.tools.bench.loader import one_text


@pytest.mark.parametrize("text", ["a" * 9000, "\u00e9\u20ac" * 5000, "x", "\U0001f600" * 1025])
def test_the_short_documents_are_the_text(tmp_path, text):
    file = one_text._write_many(tmp_path, text.encode())
    found = [json.loads(line)["text"] for line in file.read_text().splitlines()]
    assert "".join(found) == text
    assert all(0 < len(piece.encode()) <= 4096 for piece in found)


def test_text_is_repeated_to_the_size_asked_for(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("\u00e9\u20ac\n")
    text = one_text._text(file, 1000)
    assert 1000 - 3 <= len(text) <= 1000
    assert text.decode().startswith("\u00e9\u20ac\n\u00e9")


def test_both_are_started_cold_and_warm_and_compared(tmp_path, monkeypatch, capsys):
    file = tmp_path / "text.txt"
    file.write_text("some words of a text that goes on\n" * 2000)
    starts = []

    def here(path, cache, *rest):
        starts.append((path.name, cache.exists()))
        return one_text._start(path, cache, *rest)

    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(one_text, "_in_a_process", here)
    sizes = ["--row-length", "256", "--vocab-size", "300", "--rows", "3", "--one-text", "1"]
    main(["bench", "loader", str(file), *sizes])
    both = ["one.txt", "many.jsonl"]
    assert starts == [(name, warm) for warm in (False, True, True, True) for name in both]
    out = capsys.readouterr().out
    assert re.search(r"one text: \d+\.\d\d times the speed of short documents", out)


def test_impossible_sizes_are_named(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "loader", "--one-text", "0"])
    assert "--one-text (0) must be a whole number from 1 up" in capsys.readouterr().err
