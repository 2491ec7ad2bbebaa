"""Training data from token shards: local or fetched, single or mixed, damaged or sound."""

import json
import random
import re
import shutil
import time
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from packformer.corpus import Input, Preparation, load_manifest, open_shard, prepare
from packformer.corpus.shards import hash_file
from packformer.data import PackedDataModule, PackingSettings, TokenShards
from packformer.data.rows import PackedRows
from packformer.data.source import whole_document

PACKING = PackingSettings(256, 64, lookahead=16)
WORDS = ["the", "of", "packed", "row", "document", "token", "model", "loss"]


def make(tmp_path, name, seed=0, count=400, tokenizer=None, parts=6000):
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 60))) for _ in range(count)]
    file = tmp_path / f"{name}.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("packformer.corpus.preparation._MIB", parts)
        prepare(
            Preparation(
                Input((str(file),)),
                tmp_path / name,
                vocab_size=300,
                tokenizer=tokenizer,
                validation_fraction=0.2,
                shard_mib=1,
            )
        )
    return tmp_path / name


@pytest.fixture
def corpus(tmp_path):
    return make(tmp_path, "a")


def serve(server, folder):
    for file in folder.iterdir():
        server.files[f"/{folder.name}/{file.name}"] = file.read_bytes()
    return f"{server.url}/{folder.name}"


def manifest_of(folder):
    return load_manifest((folder / "manifest.json").read_text(), "manifest.json")


def rows(source, count=None, **options):
    packed = PackedRows(source, PACKING, max_documents=64, seed=1, **options)
    return [batch.tokens.tolist() for batch in islice(packed, count)]


def test_one_epoch_holds_every_document_once(corpus):
    splits = TokenShards(str(corpus)).prepare()
    manifest = manifest_of(corpus)
    assert len(manifest.train) > 5
    assert splits.train.num_documents == sum(shard.documents for shard in manifest.train)
    assert splits.vocab_size == manifest.vocab_size
    assert splits.byte_lengths is not None
    found = sum(
        batch.num_tokens
        for batch in PackedRows(splits.train, PACKING, max_documents=64, seed=1, epochs=1)
    )
    assert found >= sum(shard.tokens for shard in manifest.train) - splits.train.num_documents


@pytest.mark.parametrize("at_once", [1, 3, None])
def test_documents_are_those_of_the_shards(corpus, at_once):
    source = TokenShards(str(corpus), shards_at_once=at_once).prepare().train
    total = sum(len(whole_document(source, i)[0]) for i in range(source.num_documents))
    assert total == sum(shard.tokens for shard in manifest_of(corpus).train)
    assert [source.length(i) for i in range(9)] == [
        len(whole_document(source, i)[0]) for i in range(9)
    ]
    tokens, targets = whole_document(source, 5)
    assert np.array_equal(tokens[1:], targets[:-1])


class Watched(np.ndarray):
    """Counts the ids that are read of it."""

    read = 0

    def __getitem__(self, key):
        found = super().__getitem__(key)
        Watched.read += found.size
        return np.asarray(found)


@pytest.mark.parametrize("policy", ["split", "truncate"])
def test_a_piece_reads_its_own_tokens_alone(tmp_path, monkeypatch, policy):
    file = tmp_path / "one.txt"
    file.write_text(" ".join(WORDS) * 2000)
    prepare(Preparation(Input((str(file),)), tmp_path / "one", vocab_size=300))
    corpus = manifest_of(tmp_path / "one")
    replace(corpus, train=corpus.train + corpus.validation).save(tmp_path / "one")
    source = TokenShards(str(tmp_path / "one")).prepare().train

    def watched(*arguments):
        ids, ends = open_shard(*arguments)
        return ids.view(Watched), ends

    monkeypatch.setattr("packformer.data.sharded_documents.open_shard", watched)
    monkeypatch.setattr(Watched, "read", 0)
    packing = PackingSettings(256, 64, policy, lookahead=16)
    packed = PackedRows(source, packing, max_documents=64, seed=1, epochs=1)
    tokens = sum(batch.num_tokens for batch in packed)
    assert Watched.read == tokens > 0


def test_fetched_shards_give_the_same_rows_as_those_on_disk(corpus, server, tmp_path, monkeypatch):
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path / "cache"))
    url = serve(server, corpus)
    local = TokenShards(str(corpus), shards_at_once=2).prepare()
    largest = max(shard.num_bytes("uint16") for shard in manifest_of(corpus).train)
    cache = 4.5 * largest / 2**30  # two groups of two, less than all shards
    remote = TokenShards(url, shards_at_once=2, cache_gib=cache).prepare()
    assert rows(remote.train, 300) == rows(local.train, 300)
    used = sum(file.stat().st_size for file in (tmp_path / "cache/shards").glob("*.tokens"))
    assert used <= cache * 2**30
    assert rows(remote.validation, epochs=1) == rows(local.validation, epochs=1)


def test_a_cache_too_small_for_a_group_is_named(corpus, server):
    splits = TokenShards(serve(server, corpus), shards_at_once=4, cache_gib=1e-6).prepare()
    with pytest.raises(ValueError, match=r"shards_at_once \(4\) shards and those read before"):
        rows(splits.train, 1)


def test_a_damaged_shard_behind_a_url_stops_the_run(corpus, server, tmp_path, monkeypatch):
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path / "cache"))
    url = serve(server, corpus)
    server.files["/a/train-00001.tokens"] = server.files["/a/train-00001.tokens"][:-1] + b"x"
    with pytest.raises(ValueError, match=r"train-00001.tokens: its SHA-256 is"):
        rows(TokenShards(url).prepare().train)


@pytest.mark.parametrize("num_workers", [0, 1, 4])
def test_resuming_anywhere_goes_on_with_the_same_rows(corpus, num_workers):
    """Across epochs, with any number of workers, before and after."""

    def module(workers):
        return PackedDataModule(
            TokenShards(str(corpus), shards_at_once=3), PACKING, num_workers=workers, seed=4
        )

    whole = list(islice(module(0).train_dataloader(), 260))
    epochs = [batch.packer_state["cursors"][0]["epoch"] for batch in whole]
    assert max(epochs) >= 2
    for number in (0, 57, epochs.index(1), 199):
        resumed = module(num_workers)
        position = {"position": whole[number].packer_state, "stream": resumed.stream}
        resumed.load_state_dict(position)
        following = islice(resumed.train_dataloader(), 40)
        for batch, wanted in zip(following, whole[number + 1 :], strict=False):
            assert batch.tokens.equal(wanted.tokens)
            assert batch.packer_state == wanted.packer_state


@pytest.mark.parametrize("path", [2027, [2027]])
def test_a_corpus_may_be_named_by_a_number(corpus, tmp_path, monkeypatch, path):
    (tmp_path / "2027").symlink_to(corpus)
    monkeypatch.chdir(tmp_path)
    fingerprint = TokenShards("2027").prepare().fingerprint
    assert TokenShards(path).prepare().fingerprint == fingerprint


def test_mixtures_keep_their_weights(corpus, tmp_path):
    second = make(tmp_path, "b", seed=1, count=60, tokenizer=corpus / "tokenizer.json")
    splits = TokenShards([str(corpus), str(second)], weights=[1, 3]).prepare()
    first_documents = manifest_documents(corpus)
    tokens = np.zeros(2)
    packed = PackedRows(splits.train, PACKING, max_documents=64, seed=0)
    for batch in islice(packed, 200):
        last = batch.packer_state["cursors"]
        tokens = np.array([cursor["tokens"] for cursor in last])
    assert tokens[1] / tokens.sum() == pytest.approx(0.75, abs=0.01)
    assert last[1]["epoch"] > last[0]["epoch"]
    assert splits.train.num_documents > first_documents


def manifest_documents(folder):
    return sum(shard.documents for shard in manifest_of(folder).train)


def test_the_stream_depends_on_all_that_decides_its_order(corpus, tmp_path):
    other = make(tmp_path, "b", seed=1, tokenizer=corpus / "tokenizer.json")
    both = [str(corpus), str(other)]
    made = [
        TokenShards(str(corpus)),
        TokenShards(str(other)),
        TokenShards(str(corpus), shards_at_once=2),
        TokenShards(both),
        TokenShards(both, weights=[1, 2]),
        TokenShards(both[::-1]),
    ]
    assert len({data.prepare().fingerprint for data in made}) == len(made)


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


def hold_nothing_out(folder):
    replace(manifest_of(folder), validation=[]).save(folder)


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


def test_training_needs_documents_held_out(corpus):
    replace(manifest_of(corpus), validation=[]).save(corpus)
    assert TokenShards(str(corpus)).prepare().train.num_documents
    with pytest.raises(ValueError, match="no document to validate on, hold some out"):
        PackedDataModule(TokenShards(str(corpus)), PACKING)


@pytest.mark.parametrize("fraction", [0.0, 1e-9, 0.5, 0.99])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_training_starts_after_any_preparation(tmp_path, count, fraction):
    file = tmp_path / "a.jsonl"
    texts = [f"{WORDS[n]} and a few more" for n in range(count)]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    given = Input((str(file),))
    prepare(
        Preparation(given, tmp_path / "c", vocab_size=258, validation_fraction=fraction),
    )
    module = PackedDataModule(TokenShards(str(tmp_path / "c")), PACKING)
    for loader in (module.train_dataloader(), module.val_dataloader()):
        assert next(iter(loader)).num_targets


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_fetch_while_their_parent_does(corpus, server, tmp_path, monkeypatch, num_workers):
    """A forked process inherits what its parent's threads had begun, but not the threads."""
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path / "cache"))
    server.delay = 0.3
    data = TokenShards(serve(server, corpus), shards_at_once=1)
    module = PackedDataModule(data, PACKING, num_workers=num_workers, seed=1)
    loader = module.train_dataloader()
    loader.timeout = 60
    wanted = PackedDataModule(TokenShards(str(corpus), shards_at_once=1), PACKING, seed=1)
    for batch, expected in zip(islice(loader, 40), wanted.train_dataloader(), strict=False):
        assert batch.tokens.equal(expected.tokens)


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": ""}, r"data.path \(empty\) must be a corpus's folder or URL"),
        ({"path": []}, r"data.path"),
        ({"weights": [1, 2]}, r"data.weights \(2\) must be as many as data.path \(1\)"),
        ({"weights": [0]}, r"data.weights \(\[0\]\)"),
        ({"shards_at_once": 0}, r"data.shards_at_once \(0\) must be a whole number from 1 up"),
        ({"cache_gib": -1}, r"data.cache_gib \(-1\)"),
    ],
)
def test_impossible_settings_are_named(corpus, options, message):
    with pytest.raises(ValueError, match=message):
        TokenShards(**({"path": str(corpus)} | options)).prepare()


def test_corpora_of_different_tokenizers_do_not_mix(corpus, tmp_path):
    other = make(tmp_path, "b", seed=1)
    with pytest.raises(ValueError, match=r"b was made with another tokenizer than .*a: prepare it"):
        TokenShards([str(corpus), str(other)]).prepare()


def test_a_manifest_means_its_folder(corpus):
    by_file = TokenShards(f"{corpus}/manifest.json").prepare()
    assert by_file.fingerprint == TokenShards(str(corpus)).prepare().fingerprint


def test_a_corpus_named_twice_is_refused(corpus):
    for again in (f"{corpus}/", f"{corpus}/manifest.json", f"{corpus}/../a"):
        with pytest.raises(ValueError, match="more than once: name it once"):
            TokenShards([str(corpus), again]).prepare()


def test_the_share_of_tokens_held_out_is_told(corpus):
    manifest = manifest_of(corpus)
    train, held_out = (
        sum(shard.tokens for shard in shards) for shards in (manifest.train, manifest.validation)
    )
    told = TokenShards(str(corpus)).prepare().description
    assert f"held out ({held_out / (train + held_out):.2%} of the tokens)" in told


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
