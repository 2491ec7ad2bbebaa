"""Training data from token shards: local or fetched, single or mixed."""

import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from packformer.corpus import Input, Preparation, open_shard, prepare
from packformer.data import PackedDataModule, PackingSettings, TokenShards
from packformer.data.rows import PackedRows
from packformer.data.source import whole_document

from .corpora import PACKING, WORDS, make, manifest_of, rows, serve


@pytest.fixture
def corpus(tmp_path):
    return make(tmp_path, "a")


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


def test_training_needs_documents_held_out(corpus):
    replace(manifest_of(corpus), validation=[]).save(corpus)
    assert TokenShards(str(corpus)).prepare().train.num_documents
    with pytest.raises(ValueError, match="validate on, hold some out .`packformer prepare"):
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
    server.delay = 0.15
    data = TokenShards(serve(server, corpus), shards_at_once=1)
    module = PackedDataModule(data, PACKING, num_workers=num_workers, seed=1)
    loader = module.train_dataloader()
    loader.timeout = 60
    wanted = PackedDataModule(TokenShards(str(corpus), shards_at_once=1), PACKING, seed=1)
    for batch, expected in zip(islice(loader, 40), wanted.train_dataloader(), strict=False):
        assert batch.tokens.equal(expected.tokens)


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


def test_what_is_remarked_of_a_corpus_is_told_once(corpus, tmp_path, caplog):
    manifest = corpus / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "remarks": ["all documents are short"]}))
    for _ in range(3):
        TokenShards(str(corpus)).prepare()
    assert caplog.text.count("all documents are short") == 1
