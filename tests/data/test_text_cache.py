"""Prepared text is kept, and made again where something changed."""

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from packformer.corpus import Input, Preparation
from packformer.corpus import prepare as make
from packformer.corpus.tokenizer import train_bpe
from packformer.data import TokenShards, text

from .conftest import VOCAB, all_texts, prepare, write


def test_a_file_without_a_setting_that_changed_is_not_read_again(folder, monkeypatch):
    write(folder, a="alpha", b="beta")
    prepare(folder)
    monkeypatch.setattr("packformer.corpus.input.Input.read", None)
    assert prepare(folder).train.num_documents == 1


def test_runs_at_the_same_time_prepare_once(folder, monkeypatch):
    write(folder, a="alpha", b="beta")
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        return done(*arguments)

    done = text.prepare
    monkeypatch.setattr(text, "prepare", counted)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: prepare(folder).fingerprint, range(4)))
    assert len(set(found)) == len(calls) == 1


def test_a_path_is_prepared_once_however_it_is_spelled(folder, cache, monkeypatch):
    write(folder, a="alpha", b="beta")
    folder.with_name("link").symlink_to(folder)
    monkeypatch.chdir(folder.parent)
    spelled = [str(folder), folder.name, f"./{folder.name}/", f"{folder}/../{folder.name}", "link"]
    found = [prepare(path) for path in spelled]
    assert len(list((cache / "corpora").glob("*/manifest.json"))) == 1
    for path, splits in zip(spelled, found, strict=True):
        assert str(Path(path)) in splits.description, "it is shown as given"


def test_links_that_are_read_as_other_formats_are_prepared_apart(folder):
    write(folder, a='{"text": "alpha"}\n{"text": "beta"}\n')
    lines, plain = folder.with_name("lines.jsonl"), folder.with_name("plain.txt")
    for link in lines, plain:
        link.symlink_to(folder / "a.txt")
    assert all_texts(prepare(plain)) != all_texts(prepare(lines))


def test_a_cut_preparation_is_gone_on_with(folder, cache, monkeypatch):
    write(folder, **{f"f{n}": f"file number {n}\n" * 40 for n in range(30)})
    wanted = prepare(folder)
    monkeypatch.setenv("PACKFORMER_CACHE", str(cache.with_name("other")))
    monkeypatch.setattr("packformer.corpus.encode.Encoder.__call__", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare(folder)
    monkeypatch.undo()
    monkeypatch.setenv("PACKFORMER_CACHE", str(cache.with_name("other")))
    monkeypatch.setattr("packformer.corpus.preparation.train_bpe", None)  # not again
    monkeypatch.chdir(folder.parent)
    found = prepare(folder.name)
    assert all_texts(found) == all_texts(wanted)
    assert found.fingerprint == wanted.fingerprint


def interrupt(*arguments):
    raise KeyboardInterrupt


def test_text_and_shards_of_it_are_the_same(folder, tmp_path):
    write(folder, **{f"f{n}": f"file number {n}\n" * (n + 1) for n in range(9)})
    given = Input((str(folder),))
    options = {"vocab_size": VOCAB, "validation_fraction": 0.05}
    make(Preparation(given, tmp_path / "corpus", **options))
    assert (
        prepare(folder).fingerprint == TokenShards(str(tmp_path / "corpus")).prepare().fingerprint
    )


def test_preparing_again_reuses_the_cache(folder, monkeypatch):
    write(folder, a="alpha", b="beta")
    first = prepare(folder)

    def refuse(*arguments):
        raise AssertionError("trained again")

    monkeypatch.setattr(text, "prepare", refuse)
    second = prepare(folder)
    assert second.tokenizer == first.tokenizer
    assert all_texts(second) == all_texts(first)
    assert np.array_equal(second.byte_lengths, first.byte_lengths)


@pytest.mark.parametrize("change", ["text", "vocab_size", "tokenizer"])
def test_a_change_of_text_or_tokenizer_is_not_served_from_the_cache(folder, tmp_path, change):
    write(folder, a="alpha " * 9, b="beta " * 9)
    first = prepare(folder)
    options = {}
    if change == "text":
        write(folder, a="omega " * 9)
    elif change == "vocab_size":
        options = {"vocab_size": 260}
    else:
        train_bpe(["zzz"], 300).save(str(tmp_path / "own.json"))
        options = {"tokenizer": str(tmp_path / "own.json")}
    assert prepare(folder, **options).tokenizer != first.tokenizer


def test_a_vocabulary_too_small_is_refused_and_leaves_nothing_in_the_cache(folder, cache):
    write(folder, a="alpha", b="beta")
    with pytest.raises(ValueError, match=r"vocab_size \(100\) must be a whole number from 258"):
        prepare(folder, vocab_size=100)
    assert not cache.exists() or list(cache.iterdir()) == []


def test_a_text_too_short_for_two_splits_leaves_nothing_in_the_cache(folder, cache):
    write(folder, a="x")
    with pytest.raises(ValueError, match="the only document has 3 tokens, .*too few to train on"):
        prepare(folder)
    assert [file.name for file in cache.rglob("*") if not file.name.endswith(".lock")] == [
        "corpora"
    ]


def test_a_full_disk_at_the_end_leaves_what_the_next_preparation_continues_from(
    folder, cache, monkeypatch
):
    write(folder, a="alpha " * 40)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device", str(cache / "train.tokens"))

    monkeypatch.setattr("packformer.corpus.share.copy", full)
    with pytest.raises(ValueError, match="train.tokens"):
        prepare(folder)
    assert list(cache.rglob("*.tokens"))
    monkeypatch.undo()
    monkeypatch.setenv("PACKFORMER_CACHE", str(cache))
    monkeypatch.setattr("packformer.corpus.preparation.train_bpe", None)  # not again
    assert prepare(folder).train.num_documents == 1
