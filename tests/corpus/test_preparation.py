"""Text to shards: the same bytes whatever happens on the way."""

import json
import subprocess
import sys

import numpy as np
import pytest
from tokenizers import Tokenizer

from packformer.corpus import (
    Input,
    documents,
    encode,
    load_manifest,
    open_shard,
    prepare,
    verify_shard,
)
from packformer.corpus import preparation as module_under_test
from packformer.corpus.encode import Encoder
from packformer.corpus.sample import sample
from packformer.corpus.shards import check_tokenizer
from packformer.corpus.split import hash_of, held_out
from packformer.corpus.tokenizer import BOS, EOS, train_bpe

from .conftest import beside, content, count_of, preparation, small_parts


def decoded(folder):
    """Documents of both splits, as tokens."""
    manifest = load_manifest((folder / "manifest.json").read_text(), "manifest.json")
    found = {}
    for split in ("train", "validation"):
        found[split] = []
        for shard in getattr(manifest, split):
            ids, ends = open_shard(folder / shard.file, shard, manifest.dtype)
            found[split] += [part.tolist() for part in np.split(ids, ends[:-1])]
    return manifest, found


def test_every_document_is_on_its_side_between_its_marks(corpus, tmp_path, monkeypatch):
    small_parts(monkeypatch)
    file, texts = corpus
    prepare(preparation(file, tmp_path / "c"))
    manifest, found = decoded(tmp_path / "c")
    tokenizer = Tokenizer.from_file(str(tmp_path / "c" / "tokenizer.json"))
    marks = [tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)]
    wanted = {"train": [], "validation": []}
    for text in filter(None, texts):
        side = "validation" if held_out(np.array(hash_of(text.encode())), 0.2) else "train"
        wanted[side].append(text)
    assert len(wanted["train"]) > len(wanted["validation"]) > 20
    for split, documents_found in found.items():
        assert [[ids[0], ids[-1]] for ids in documents_found] == [marks] * len(wanted[split])
        assert [tokenizer.decode(ids[1:-1]) for ids in documents_found] == wanted[split]
    assert len(manifest.train) > 3
    assert manifest.left_out.empty == texts.count("")
    for split in ("train", "validation"):
        for shard in getattr(manifest, split):
            verify_shard(tmp_path / "c" / shard.file, shard, "uint16", manifest.vocab_size)
        size = sum(shard.text_bytes for shard in getattr(manifest, split))
        assert size == sum(len(text.encode()) for text in wanted[split])
        assert size == sum(shard.spelled_bytes for shard in getattr(manifest, split))


def test_workers_change_no_byte(corpus, tmp_path, monkeypatch):
    small_parts(monkeypatch)
    prepare(preparation(corpus[0], tmp_path / "here"))
    monkeypatch.setattr(module_under_test, "_FEW", 0)
    for workers in (1, 3):
        prepare(preparation(corpus[0], tmp_path / str(workers), workers=workers))
    assert content(tmp_path / "here") == content(tmp_path / "1") == content(tmp_path / "3")


def test_copies_are_on_one_side_whatever_file_they_come_in(tmp_path):
    text = "Größe, and more words\n" * 60_000  # longer than a piece
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": text}))
    marks = set()
    for name in ("a.txt", "b.jsonl"):
        (first, *_) = Input((str(tmp_path / name),)).read(str(tmp_path / name))
        marks.add(hash_of(documents.text_of(first, "text").encode()))
    assert len(marks) == 1


@pytest.mark.parametrize("count", [7, 14])
def test_input_that_ends_with_a_full_batch_is_complete(tmp_path, monkeypatch, count):
    monkeypatch.setattr("packformer.corpus.preparation._BATCH_DOCUMENTS", 7)
    texts = [f"document {number}" for number in range(count)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    made = preparation(tmp_path / "a.jsonl", tmp_path / "c")
    assert count_of(prepare(made)) == count


def test_the_sample_of_one_long_line_is_bounded(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "word " * 2000}))
    given = Input((str(tmp_path / "a.jsonl"),))
    assert sum(map(len, sample(given, given.sources(), 2000, False))) == 2000


def test_the_sample_is_bounded_whatever_the_files(tmp_path):
    for number in range(100):
        (tmp_path / f"{number:02}.txt").write_text(f"{number % 10} " * 50)
    given = Input((str(tmp_path),))
    size = sum(map(len, sample(given, given.sources(), 2000, False)))
    assert 2000 <= size <= 2100


def test_long_documents_are_whole(tmp_path, monkeypatch):
    for module in (documents, encode):
        monkeypatch.setattr(module, "PIECE", 64)
    text = "packed rows of documents\n" * 40
    (tmp_path / "long.txt").write_text(text)
    (tmp_path / "short.txt").write_text("short")
    encoder = Encoder(train_bpe([text], 300).to_str(), "text", False)
    source = Input((str(tmp_path),))
    raws = [raw for name in source.sources() for raw in source.read(name)]
    ids = encoder(raws).ids.tolist()
    assert ids.count(encoder._bos) == ids.count(encoder._eos) == 2
    prepare(preparation(tmp_path, beside(tmp_path), workers=2))
    _, found = decoded(beside(tmp_path))
    tokenizer = Tokenizer.from_file(str(beside(tmp_path) / "tokenizer.json"))
    held_out, *rest = (tokenizer.decode(ids) for ids in found["validation"] + found["train"])
    whole = rest.index("short")
    assert rest.pop(whole) + "".join(rest) + held_out == "short" + text  # of which the tail


def test_a_given_tokenizer_is_used_and_kept(corpus, tmp_path):
    tokenizer = train_bpe(corpus[1], 280)
    tokenizer.save(str(tmp_path / "t.json"))
    manifest = prepare(preparation(corpus[0], tmp_path / "c", tokenizer=tmp_path / "t.json"))
    assert manifest.vocab_size == 280
    check_tokenizer(manifest, tmp_path / "c" / "tokenizer.json")


def test_large_vocabularies_take_four_bytes(corpus, tmp_path):
    tokenizer = json.loads(train_bpe(corpus[1], 280).to_str())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary |= {f"<{n}>": n for n in range(len(vocabulary), 70_000)}
    (tmp_path / "t.json").write_text(json.dumps(tokenizer))
    prepare(preparation(corpus[0], tmp_path / "c", tokenizer=tmp_path / "t.json"))
    manifest, found = decoded(tmp_path / "c")
    assert manifest.dtype == "uint32"
    small, found_small = (prepare(preparation(corpus[0], tmp_path / "d")), decoded(tmp_path / "d"))
    assert small.dtype == "uint16"
    assert len(found["train"]) == len(found_small[1]["train"])


def test_standard_input_is_lines_of_json(corpus, tmp_path, monkeypatch):
    prepare(preparation(corpus[0], tmp_path / "file"))
    with corpus[0].open() as stream:
        monkeypatch.setattr("sys.stdin", stream)
        prepare(preparation("-", tmp_path / "pipe"))
    assert content(tmp_path / "pipe") == content(tmp_path / "file")
    assert not (tmp_path / "pipe" / ".standard-input").exists()


def test_processes_start_without_torch():
    code = "import sys, packformer.corpus; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
