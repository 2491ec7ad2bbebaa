"""Training and validation both get documents, whatever the number and the fraction."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer

from packformer.corpus import Input, Preparation, open_shard, prepare, verify_shard
from packformer.corpus.split import hash_of, held_out
from packformer.corpus.tokenizer import BOS, EOS, train_bpe

FRACTIONS = [0.0, 1e-9, 0.01, 0.5, 0.99, 1 - 1e-9]


def make(folder, texts, fraction, name="c", **options):
    file = folder / "a.jsonl"
    if not file.exists():
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    made = Preparation(
        Input((str(file),)),
        folder / name,
        vocab_size=300,
        validation_fraction=fraction,
        shard_mib=1,
        **options,
    )
    return prepare(made)


def documents(folder, manifest, name="c"):
    tokenizer = Tokenizer.from_file(str(folder / name / "tokenizer.json"))
    found = {}
    for split in ("train", "validation"):
        found[split] = []
        for shard in getattr(manifest, split):
            file = folder / name / shard.file
            verify_shard(file, shard, manifest.dtype, manifest.vocab_size)
            ids, ends = open_shard(file, shard, manifest.dtype)
            parts = np.split(ids, ends[:-1])
            found[split] += [tokenizer.decode(p, skip_special_tokens=False) for p in parts]
    return found


def marked(texts):
    return sorted(BOS + text + EOS for text in texts)


@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize("count", [2, 3, 10])
def test_a_few_documents_are_on_both_sides(tmp_path, monkeypatch, count, fraction):
    monkeypatch.setattr("packformer.corpus.preparation._MIB", 40)
    monkeypatch.setattr("packformer.corpus.preparation._BATCH_BYTES", 30)
    texts = [f"document number {n}" for n in range(count)]
    manifest = make(tmp_path, texts, fraction)
    found = documents(tmp_path, manifest)
    assert sorted(sum(found.values(), [])) == marked(texts)
    assert found["train"]
    assert found["validation"]
    by_hash = sorted(texts, key=lambda text: hash_of(text.encode()))
    assert set(marked(by_hash[: len(found["validation"])])) == set(found["validation"])
    hashes = np.array([hash_of(text.encode()) for text in texts])
    wanted = min(max(1, held_out(hashes, fraction).sum()), count - 1)
    assert len(found["validation"]) == wanted
    for name in ("text_bytes", "spelled_bytes"):
        shards = (*manifest.train, *manifest.validation)
        assert sum(getattr(shard, name) for shard in shards) == sum(map(len, texts))
    assert {file.name for file in (tmp_path / "c").glob("*.tokens")} == {s.file for s in shards}
    assert bool(manifest.remarks) == (fraction == 0)


@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize("size", [2, 3, 9, 50_000])
def test_of_one_document_the_tail_is_held_out(tmp_path, size, fraction):
    text = "".join(chr(97 + n * n % 26) for n in range(size))
    train_bpe([], 258).save(str(tmp_path / "bytes.json"))
    manifest = make(tmp_path, [text], fraction, tokenizer=tmp_path / "bytes.json")
    train, validation = (getattr(manifest, split)[0] for split in ("train", "validation"))
    tokens = train.tokens + validation.tokens
    assert validation.tokens == min(max(2, int(fraction * tokens)), tokens - 2)
    found = documents(tmp_path, manifest)
    assert found["train"] + found["validation"] == [
        (BOS + text + EOS)[: len(found["train"][0])],
        (BOS + text + EOS)[len(found["train"][0]) :],
    ]
    assert train.text_bytes + validation.text_bytes == size
    said = f"one document in all: its last {validation.tokens:,} tokens are held out"
    assert manifest.remarks == [said]


def test_one_token_alone_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"only document has 3 tokens, its marks included: too few"
    ):
        make(tmp_path, ["a"], 0.1)


@pytest.mark.parametrize("fraction", [0.0, 0.999])
def test_copies_stay_together(tmp_path, monkeypatch, fraction):
    monkeypatch.setattr("packformer.corpus.preparation._MIB", 40)
    monkeypatch.setattr("packformer.corpus.preparation._BATCH_BYTES", 30)
    texts = [f"text {n % 5}" for n in range(40)]
    found = documents(tmp_path, make(tmp_path, texts, fraction))
    assert not set(found["train"]) & set(found["validation"])
    assert {len(found["train"]), len(found["validation"])} == {8, 32}


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_of_copies_alone_one_is_apart(tmp_path, fraction):
    manifest = make(tmp_path, ["the same text"] * 7, fraction)
    found = documents(tmp_path, manifest)
    assert sorted([len(found["train"]), len(found["validation"])]) == [1, 6]
    assert manifest.remarks[0] == "all 7 documents are the same: validation measures memory alone"
    assert [shard.text_bytes for shard in (*manifest.train, *manifest.validation)].count(13) == 1


def test_a_kill_while_documents_change_sides_is_gone_on_with(tmp_path, monkeypatch):
    texts = [f"document number {n}" for n in range(3)]
    wanted = make(tmp_path, texts, 0.0)

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("packformer.corpus.shards.Manifest.save", stop)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path, texts, 0.0, "d")
    assert make(tmp_path, texts, 0.0, "d").train == wanted.train
    names = [{file.name for file in (tmp_path / c).glob("*.tokens")} for c in "cd"]
    assert names[0] == names[1]
