"""``packformer inspect`` counts in words that fit the number."""

import re

import pytest

from packformer.cli import main
from packformer.corpus import Input, Preparation, prepare


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """One document, cut for validation: one of each thing."""
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.txt").write_text("some words")
    prepare(Preparation(Input((str(tmp_path / "a.txt"),)), tmp_path / "c", vocab_size=300))
    return str(tmp_path / "c")


@pytest.mark.parametrize("arguments", [[], ["--row", "0", "--row-length", "64"]])
def test_one_is_singular(corpus, capsys, arguments):
    main(["inspect", corpus, "--split", "validation", *arguments])
    out = capsys.readouterr().out
    assert "1 document, " in out
    assert "1 shard" in out or "1 target" in out
    assert not re.search(r"\b1 [a-z]+s\b", out)


def test_a_row_that_cuts_its_last_document(corpus, tmp_path, capsys):
    (tmp_path / "b.txt").write_text("0123456789" * 9)
    tokenizer = tmp_path / "c" / "tokenizer.json"
    given = Input((str(tmp_path / "b.txt"),))
    prepare(Preparation(given, tmp_path / "d", tokenizer=tokenizer))
    row = ["--row", "0", "--row-length", "8", "--policy", "concatenate"]
    main(["inspect", str(tmp_path / "d"), *row])
    out = capsys.readouterr().out
    assert "100.00% full" in out
    last = out.splitlines()[-1]
    assert not last.endswith("nothing"), "the first token of the next row is predicted"


def test_blocks_are_shown_as_they_lie_in_the_row(corpus, tmp_path, capsys):
    (tmp_path / "b.txt").write_text("0123456789" * 9)
    tokenizer = tmp_path / "c" / "tokenizer.json"
    given = Input((str(tmp_path / "b.txt"),))
    prepare(Preparation(given, tmp_path / "d", tokenizer=tokenizer))
    row = ["--row", "0", "--row-length", "8", "--policy", "blocks", "--max-document-length", "4"]
    main(["inspect", str(tmp_path / "d"), *row])
    out = capsys.readouterr().out
    assert "row 0: 8 tokens, 2 blocks, 100.00% full, 8 targets" in out
    assert "tokens 4 to 7: 4, of which 4 predict" in out


def test_a_row_that_is_not_there_is_told_with_how_many_there_are(corpus, capsys):
    with pytest.raises(SystemExit):
        main(["inspect", corpus, "--row", "1", "--row-length", "64"])
    assert "row 1 does not exist: one pass over train has 1 row, num" in capsys.readouterr().err
