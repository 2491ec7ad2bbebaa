"""Damaged token shards, local or fetched, are found and named."""

import re
import shutil
import time
from dataclasses import replace

import pytest

from packformer.corpus import Input, Preparation, prepare
from packformer.corpus.shards import hash_file
from packformer.data import TokenShards

from .corpora import make, manifest_of, rows, serve


@pytest.fixture
def corpus(tmp_path):
    return make(tmp_path, "a")


def test_a_damaged_shard_behind_a_url_stops_the_run(corpus, server, tmp_path, monkeypatch):
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path / "cache"))
    url = serve(server, corpus)
    server.files["/a/train-00001.tokens"] = server.files["/a/train-00001.tokens"][:-1] + b"x"
    with pytest.raises(ValueError, match=r"train-00001.tokens: its SHA-256 is"):
        rows(TokenShards(url).prepare().train)


def test_a_corpus_is_verified_once_and_again_when_it_changed(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path / "cache"))
    TokenShards(str(corpus)).prepare()
    called = []
    monkeypatch.setattr(
        "packformer.data.token_shards.verify_shard", lambda *args: called.append(args)
    )
    TokenShards(str(corpus)).prepare()
    assert not called
    (corpus / "train-00000.tokens").touch()
    TokenShards(str(corpus)).prepare()
    assert called


def test_what_follows_a_damaged_shard_is_not_read(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path / "cache"))
    manifest = manifest_of(corpus)
    called = []

    def verify(file, *_):
        called.append(file)
        if len(called) == 1:
            raise ValueError(f"{file} is damaged")
        time.sleep(0.05)

    monkeypatch.setattr("packformer.data.token_shards.verify_shard", verify)
    monkeypatch.setattr("packformer.data.token_shards._THREADS", 1)
    with pytest.raises(ValueError, match="is damaged"):
        TokenShards(str(corpus)).prepare()
    assert len(called) < len(manifest.train) + len(manifest.validation)


def flip(folder):
    data = bytearray((folder / "train-00002.tokens").read_bytes())
    data[50] ^= 1
    (folder / "train-00002.tokens").write_bytes(data)


def cut(folder):
    data = (folder / "train-00002.tokens").read_bytes()
    (folder / "train-00002.tokens").write_bytes(data[:-1])


def shrink_the_vocabulary(folder):
    replace(manifest_of(folder), vocab_size=100).save(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, r"train-00002.tokens: its SHA-256 is"),
        (cut, r"train-00002.tokens ends at byte"),
        (lambda c: (c / "train-00002.tokens").unlink(), r"train-00002.tokens is missing"),
        (lambda c: (c / "manifest.json").unlink(), r"is no corpus of token shards, it has no man"),
        (lambda c: (c / "manifest.json").write_text("{"), r"manifest.json is no manifest of token"),
        (lambda c: (c / "tokenizer.json").unlink(), r"tokenizer.json is missing"),
        (
            lambda c: (c / "tokenizer.json").write_text("{}"),
            r"is not the tokenizer its shards",
        ),
        (shrink_the_vocabulary, r"train-00000.tokens, byte [\d,]+: token id \d+ lies outside the"),
        (shutil.rmtree, r"is no corpus of token shards"),
    ],
)
def test_damage_is_named(corpus, damage, message):
    damage(corpus)
    with pytest.raises(ValueError, match=message):
        TokenShards(str(corpus)).prepare()


def test_a_cached_shard_that_decayed_is_fetched_again(corpus, server, tmp_path, monkeypatch):
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path / "cache"))
    url = serve(server, corpus)
    wanted = rows(TokenShards(url).prepare().train, 20)
    for file in (tmp_path / "cache" / "shards").glob("*.tokens"):
        file.write_bytes(b"\0" * file.stat().st_size)
    assert rows(TokenShards(url).prepare().train, 20) == wanted


def test_a_fetched_shard_beyond_the_vocabulary_is_refused(corpus, server, tmp_path, monkeypatch):
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path / "cache"))
    replace(manifest_of(corpus), vocab_size=100).save(corpus)
    splits = TokenShards(serve(server, corpus)).prepare()
    with pytest.raises(ValueError, match=r"token id \d+ lies outside the vocabulary"):
        rows(splits.train, 1)


def test_a_damaged_tokenizer_is_fetched_anew(corpus, server, tmp_path, monkeypatch):
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path / "cache"))
    url = serve(server, corpus)
    server.files["/a/tokenizer.json"] = b"{}"
    with pytest.raises(ValueError, match=r"/a/tokenizer.json is not the tokenizer its shards"):
        TokenShards(url).prepare()
    serve(server, corpus)
    assert TokenShards(url).prepare().train.num_documents
    (cached,) = (tmp_path / "cache" / "tokenizers").rglob("tokenizer.json")
    cached.write_text("")
    assert TokenShards(url).prepare().train.num_documents


def test_a_small_corpus_is_checked_in_kib(tmp_path, caplog):
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "some words of a text"}\n' * 40)
    prepare(Preparation(Input((str(texts),)), tmp_path / "c", vocab_size=300))
    with caplog.at_level("INFO", "packformer"):
        TokenShards(str(tmp_path / "c")).prepare()
    assert re.search(r"checking 2 shards \(\d+ KiB\) in ", caplog.text)


def _rewritten(corpus, **changes):
    """The corpus with a shard and a manifest that agree, whatever they hold."""
    manifest = manifest_of(corpus)
    first = replace(manifest.train[0], **changes.pop("shard", {}))
    first = replace(first, sha256=hash_file(corpus / first.file))
    replace(manifest, train=[first, *manifest.train[1:]], **changes).save(corpus)


def test_a_vocabulary_beyond_the_tokenizer_is_refused(corpus):
    _rewritten(corpus, vocab_size=2**16)
    with pytest.raises(ValueError, match=r"says vocab_size 65,536, and its tokenizer.json has"):
        TokenShards(str(corpus)).prepare()


def test_links_out_of_the_folder_are_not_followed(corpus, tmp_path):
    for name in ("train-00000.tokens", "tokenizer.json"):
        outside = tmp_path / f"outside-{name}"
        (corpus / name).rename(outside)
        (corpus / name).symlink_to(outside)
        with pytest.raises(ValueError, match=rf"{name} is a link out of its folder, to {outside}"):
            TokenShards(str(corpus), verify=False).prepare().train.length(0)
        (corpus / name).unlink()
        outside.rename(corpus / name)
    link = tmp_path / "link"
    link.symlink_to(corpus)
    assert TokenShards(str(link)).prepare().train.num_documents


def test_a_shard_with_a_hole_is_not_read_to_its_end(corpus):
    first = manifest_of(corpus).train[0]
    file, tokens = corpus / first.file, 2**40
    file.write_bytes(b"")
    with file.open("r+b") as stream:
        stream.truncate(2 * tokens + 8)
    manifest = manifest_of(corpus)
    shard = replace(first, documents=1, tokens=tokens)
    replace(manifest, train=[shard, *manifest.train[1:]]).save(corpus)
    with pytest.raises(ValueError, match=r"has a hole at byte 0 of"):
        TokenShards(str(corpus)).prepare()


def test_without_verification_pieces_are_checked_when_they_are_read(corpus):
    file = corpus / manifest_of(corpus).train[0].file
    data = bytearray(file.read_bytes())
    data[2:4] = b"\xff\xff"
    file.write_bytes(data)
    source = TokenShards(str(corpus), verify=False).prepare().train
    with pytest.raises(ValueError, match=r"document 0: token id 65535 lies outside the vocabulary"):
        source.piece(0, 0, 4)
    data[-8:] = bytes([255] * 8)
    file.write_bytes(data)
    source = TokenShards(str(corpus), verify=False).prepare().train
    with pytest.raises(ValueError, match=r"its document ends do not ascend"):
        source.length(0)
