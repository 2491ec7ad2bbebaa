"""Text as documents: what is one, what is held out, what is refused."""

import gzip
import json
import logging
import shutil
import sysconfig
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from packformer.batch import IGNORE_INDEX
from packformer.corpus.tokenizer import BOS, EOS, train_bpe
from packformer.data import StandardLibrary
from packformer.data.source import whole_document

from .conftest import VOCAB, all_texts, decoded, prepare, write


def test_every_file_of_a_folder_is_a_document(folder):
    contents = {f"f{n}": f"file number {n}\n" * (n + 1) for n in range(9)}
    write(folder, **contents)
    (folder / "deeper" / "down").mkdir(parents=True)
    (folder / "deeper" / "down" / "code.py").write_text("x = 1\n")
    splits = prepare(folder)
    assert all_texts(splits) == sorted([*contents.values(), "x = 1\n"])


def test_hidden_and_empty_files_are_no_documents(folder):
    write(folder, a="alpha", b="beta", empty="")
    (folder / ".hidden.txt").write_bytes(b"\xff secret")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("secret")
    assert all_texts(prepare(folder)) == ["alpha", "beta"]


def test_a_folder_below_a_hidden_one_can_be_named(folder):
    place = folder / ".notes"
    place.mkdir()
    write(place, a="alpha", b="beta")
    assert all_texts(prepare(place)) == ["alpha", "beta"]


def test_every_line_of_a_jsonl_file_is_a_document(folder):
    path = folder / "data.jsonl"
    texts = ["one", "two\nlines \u2028 and \x0c more", "ünï", "four"]
    lines = [json.dumps({"id": n, "text": t}) for n, t in enumerate(texts)]
    lines[2] = json.dumps({"text": texts[2]}, ensure_ascii=False)
    path.write_bytes("\n\n  \n".join(lines).encode())
    assert all_texts(prepare(path)) == sorted(texts)


def test_line_separators_of_unicode_do_not_end_a_jsonl_line(folder):
    path = folder / "data.jsonl"
    texts = ["a\u2028b\u0085c", "other"]
    path.write_bytes("\n".join(json.dumps({"text": t}, ensure_ascii=False) for t in texts).encode())
    assert all_texts(prepare(path)) == sorted(texts)


def test_jsonl_field_can_be_chosen(folder):
    path = folder / "data.jsonl"
    path.write_text('{"body": "a", "text": 3}\n{"body": "b"}\n')
    assert all_texts(prepare(path, field="body")) == ["a", "b"]


def test_a_field_may_be_named_by_a_number(folder):
    path = folder / "data.jsonl"
    path.write_text('{"2024": "a"}\n{"2024": "b"}\n')
    assert all_texts(prepare(path, field=2024)) == ["a", "b"]


def test_jsonl_files_of_a_folder_are_read_by_line(folder):
    (folder / "data.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    write(folder, c="c")
    assert all_texts(prepare(folder)) == ["a", "b", "c"]


@pytest.mark.parametrize("fraction", [0.05, 0.25])
def test_the_tail_of_a_single_document_is_held_out(folder, caplog, fraction):
    write(folder, one="".join(f"line {n}: {n * n}\n" for n in range(100)))
    path = folder / "one.txt"
    with caplog.at_level(logging.WARNING):
        splits = prepare(path, validation_fraction=fraction)
    total = splits.train.length(0) + splits.validation.length(0)
    held_out = splits.validation.length(0)
    assert held_out == int(fraction * total)
    assert f"one document in all: its last {held_out} tokens are held out" in caplog.text
    start, end = (decoded(s, splits)[0] for s in (splits.train, splits.validation))
    assert start + end == path.read_text()
    tokenizer = Tokenizer.from_file(str(splits.tokenizer))
    assert whole_document(splits.train, 0)[0][0] == tokenizer.token_to_id(BOS)
    assert whole_document(splits.validation, 0)[0][-1] == tokenizer.token_to_id(EOS)


def test_nothing_is_held_out_where_none_is_asked_for(folder, caplog):
    write(folder, one="".join(f"line {n}: {n * n}\n" for n in range(100)))
    splits = prepare(folder / "one.txt", validation_fraction=None)
    assert decoded(splits.train, splits) == [(folder / "one.txt").read_text()]
    assert splits.validation.num_documents == 0
    assert "held out" not in caplog.text + splits.description


def test_more_documents_move_none_to_the_other_side(folder):
    for n in range(100):
        write(folder, **{f"f{n}": f"file {n} " * 3})
    few = prepare(folder, validation_fraction=0.3)
    sides = [set(decoded(source, few)) for source in (few.train, few.validation)]
    assert 15 <= len(sides[1]) <= 45
    for n in range(100, 150):
        write(folder, **{f"f{n}": f"file {n} " * 3})
    many = prepare(folder, validation_fraction=0.3)
    train, validation = (set(decoded(source, many)) for source in (many.train, many.validation))
    # Only the documents with the lowest and the highest hash may be there to fill a side.
    assert len(sides[0] - train) <= 1
    assert len(sides[1] - validation) <= 1
    assert len(train | validation) == 150
    assert not train & validation


@pytest.mark.parametrize("fraction", [1e-9, 1 - 1e-9])
def test_neither_side_is_empty(folder, fraction):
    write(folder, a="alpha", b="beta", c="gamma")
    splits = prepare(folder, validation_fraction=fraction)
    sizes = {splits.train.num_documents, splits.validation.num_documents}
    assert sizes == {1, 2}


def test_targets_are_the_next_tokens(folder):
    write(folder, a="some text", b="more text")
    splits = prepare(folder)
    tokens, targets = whole_document(splits.train, 0)
    assert targets.tolist() == [*tokens[1:].tolist(), IGNORE_INDEX]
    assert splits.train.length(0) == len(tokens)
    assert tokens.max() < splits.vocab_size


def test_byte_lengths_of_a_documents_tokens_add_up_to_its_bytes(folder):
    contents = {"a": "naïve café 你好", "b": "plain\n" * 5, "c": "\U0001f600"}
    write(folder, **contents)
    splits = prepare(folder)
    counted = [
        int(splits.byte_lengths[whole_document(source, n)[0]].sum())
        for source in (splits.train, splits.validation)
        for n in range(source.num_documents)
    ]
    assert sorted(counted) == sorted(len(content.encode()) for content in contents.values())


def test_description_counts_documents_and_tokens(folder):
    write(folder, a="alpha", b="beta")
    splits = prepare(folder)
    tokens = splits.train.length(0) + splits.validation.length(0)
    share = splits.validation.length(0) / tokens
    told = f"{folder}: 2 documents, {tokens} tokens, 1 held out ({share:.2%} of the tokens)"
    assert splits.description == told
    assert not splits.scores_answers


def test_a_given_tokenizer_is_used(folder, tmp_path):
    write(folder, a="alpha", b="beta")
    own = train_bpe(["alpha beta " * 20], 265)
    own.save(str(tmp_path / "own.json"))
    splits = prepare(folder, tokenizer=str(tmp_path / "own.json"), vocab_size=1)
    assert splits.vocab_size == own.get_vocab_size()
    assert all_texts(splits) == ["alpha", "beta"]


def fake_library(monkeypatch, folder):
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(folder)})


def test_standard_library_leaves_out_tests_and_site_packages(folder, monkeypatch):
    fake_library(monkeypatch, folder)
    for name in ("a.py", "pkg/b.py", "test/c.py", "pkg/tests/d.py", "site-packages/e.py", "f.txt"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(name)
    splits = StandardLibrary(vocab_size=VOCAB).prepare()
    assert all_texts(splits) == ["a.py", "pkg/b.py"]


def test_interpreter_without_sources_is_named(folder, monkeypatch):
    fake_library(monkeypatch, folder)
    with pytest.raises(
        ValueError, match=r"without sources of its standard library in .*use data=text data\.path="
    ):
        StandardLibrary().prepare()


@pytest.mark.slow
def test_standard_library_of_this_interpreter_is_ready_to_train_on(folder, monkeypatch):
    """Every eighth of its files: all of them take ten seconds to encode."""
    library = Path(sysconfig.get_paths()["stdlib"])
    files = StandardLibrary().request().preparation.input.paths
    for file in map(Path, files[::8]):
        copy = folder / file.relative_to(library)
        copy.parent.mkdir(exist_ok=True, parents=True)
        shutil.copy(file, copy)
    fake_library(monkeypatch, folder)
    splits = StandardLibrary().prepare()
    assert splits.train.num_documents + splits.validation.num_documents > len(files) // 10
    assert splits.vocab_size == 4096
    assert splits.train.num_documents > 10 * splits.validation.num_documents > 0
    lengths = [splits.train.length(n) for n in range(splits.train.num_documents)]
    assert max(lengths) > 5 * sorted(lengths)[len(lengths) // 2]
    tokens, _ = whole_document(splits.validation, 0)
    (content,) = decoded(splits.validation, splits)[:1]
    assert splits.byte_lengths[tokens].sum() == len(content.encode())


@pytest.mark.parametrize("name", ["a.jsonl", "a.JSONL"])
def test_a_mark_of_the_beginning_and_capital_letters_are_read(folder, name):
    lines = ['{"text": "alpha"}', '{"text": "beta"}', '{"text": "gamma"}']
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode())
    assert all_texts(prepare(folder)) == ["alpha", "beta", "gamma"]


def test_copies_of_a_held_out_document_are_held_out(folder):
    write(folder, **{f"copy{i}": "the same text" for i in range(5)}, other="another text")
    splits = prepare(folder)
    sides = [
        {bytes(whole_document(side, i)[0]) for i in range(side.num_documents)}
        for side in (splits.train, splits.validation)
    ]
    assert not sides[0] & sides[1]


def test_tables_and_compressed_files_are_read_as_what_they_hold(folder):
    (folder / "a.csv").write_text("n,text\n1,first\n2,second\n")
    (folder / "b.txt.gz").write_bytes(gzip.compress(b"third"))
    assert "3 documents" in prepare(folder).description
