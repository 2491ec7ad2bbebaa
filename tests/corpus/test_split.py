"""Training and validation both get documents, whatever the number and the fraction."""

import json
import random
import re

import numpy as np
import pytest
from tokenizers import Tokenizer

from packformer.corpus import Input, Preparation, open_shard, prepare, verify_shard
from packformer.corpus.split import hash_of, held_out
from packformer.corpus.tokenizer import BOS, EOS, train_bpe

SIZES = ("documents", "tokens", "text_bytes", "spelled_bytes")
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


def whole(found):
    """All documents; one that was cut is put together again."""
    tails = [text for text in found["validation"] if not text.startswith(BOS)]
    heads = [text for text in found["train"] if not text.endswith(EOS)]
    assert len(tails) == len(heads) <= 1
    rest = [t for some in found.values() for t in some if t.startswith(BOS) and t.endswith(EOS)]
    return sorted(rest + [head + tail for head, tail in zip(heads, tails, strict=True)])


def manifest_tokens(manifest):
    return sum(shard.tokens for shard in (*manifest.train, *manifest.validation))


def check(folder, manifest, texts, fraction):
    """Nothing is lost, and the share of tokens that is held out is near the fraction."""
    found = documents(folder, manifest)
    assert whole(found) == marked(texts)
    train, validation = (
        {name: sum(getattr(shard, name) for shard in getattr(manifest, split)) for name in SIZES}
        for split in ("train", "validation")
    )
    total = train["tokens"] + validation["tokens"]
    assert train["tokens"] >= 2
    assert validation["tokens"] >= 2
    for split, sizes in (("train", train), ("validation", validation)):
        text = "".join(found[split]).replace(BOS, "").replace(EOS, "")
        assert sizes["text_bytes"] == sizes["spelled_bytes"] == len(text)
    assert validation["tokens"] <= max(2 * fraction * total, 0.02 * total, 64)
    kept = {shard.file for shard in (*manifest.train, *manifest.validation)}
    assert {file.name for file in (folder / "c").glob("*.tokens")} == kept
    return validation["tokens"] / total


@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize("count", [2, 3, 10])
def test_a_few_documents_are_on_both_sides(tmp_path, monkeypatch, count, fraction):
    monkeypatch.setattr("packformer.corpus.preparation._MIB", 40)
    monkeypatch.setattr("packformer.corpus.preparation._BATCH_BYTES", 30)
    texts = [f"document number {n}" for n in range(count)]
    manifest = make(tmp_path, texts, fraction)
    check(tmp_path, manifest, texts, fraction)
    said = " ".join(manifest.remarks)
    assert said.startswith("validation-fraction is 0, but training needs") == (fraction == 0)


@pytest.mark.parametrize("seed", range(12))
def test_documents_of_any_number_and_size(tmp_path, monkeypatch, seed):
    draw = random.Random(seed)
    monkeypatch.setattr("packformer.corpus.preparation._BATCH_BYTES", 3000)
    if seed % 2:
        monkeypatch.setattr("packformer.corpus.preparation._MIB", 2000)
    train_bpe([], 258).save(str(tmp_path / "bytes.json"))
    count = draw.choice([2, 3, 5, 20, 300])
    texts = [f"{n} " + "x" * int(2 ** draw.uniform(0, 12)) for n in range(count)]
    fraction = draw.choice([0.001, 0.01, 0.05, 0.1, 0.3])
    manifest = make(tmp_path, texts, fraction, tokenizer=tmp_path / "bytes.json")
    share = check(tmp_path, manifest, texts, fraction)
    assert share >= fraction / 2.1 or fraction * manifest_tokens(manifest) < 64


@pytest.mark.parametrize("huge", ["held out", "trained on"])
def test_one_document_much_larger_than_the_others(tmp_path, huge):
    texts = [f"document number {n}" for n in range(40)]
    names = (f"{n} " + "y" * 20_000 for n in range(100))
    side = huge == "held out"
    hashes = {name: np.array(hash_of(name.encode())) for name in names}
    texts.append(next(t for t, value in hashes.items() if held_out(value, 0.1) == side))
    train_bpe([], 258).save(str(tmp_path / "bytes.json"))
    manifest = make(tmp_path, texts, 0.1, tokenizer=tmp_path / "bytes.json")
    share = check(tmp_path, manifest, texts, 0.1)
    assert share == pytest.approx(0.1, abs=0.005)
    (remark,) = manifest.remarks
    assert re.fullmatch(
        r"one document was cut: its last [\d,]+ tokens are held out, because documents are few or "
        "unequal",
        remark,
    )


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
