"""Text to shards: the same bytes whatever happens on the way."""

import errno
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from filelock import FileLock
from tokenizers import Tokenizer

from packformer.corpus import (
    Input,
    Preparation,
    documents,
    encode,
    load_manifest,
    open_shard,
    prepare,
    shards,
    verify_shard,
)
from packformer.corpus import preparation as module_under_test
from packformer.corpus.encode import Encoder
from packformer.corpus.journal import JOURNAL
from packformer.corpus.sample import sample
from packformer.corpus.shards import ShardWriter, check_tokenizer
from packformer.corpus.split import hash_of, held_out
from packformer.corpus.tokenizer import BOS, EOS, train_bpe

WORDS = [
    "the",
    "of",
    "and",
    "packed",
    "row",
    "document",
    "token",
    "model",
    "loss",
    "Größe",
    "naïve",
    "東京",
    "\n",
]


def make_texts(count=300, seed=0):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(0, 80))) for _ in range(count)]


@pytest.fixture
def corpus(tmp_path):
    texts = make_texts()
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return file, texts


def preparation(file, output, **options):
    defaults = {"vocab_size": 300, "validation_fraction": 0.2, "shard_mib": 1}
    return Preparation(Input((str(file),)), output, **(defaults | options))


def count_of(manifest):
    return sum(shard.documents for shard in (*manifest.train, *manifest.validation))


def beside(tmp_path, name="c"):
    """A folder outside of ``tmp_path``, which is the input."""
    return tmp_path.with_name(f"{tmp_path.name}-{name}")


def small_parts(monkeypatch, size=4000):
    monkeypatch.setattr("packformer.corpus.preparation._MIB", size)
    monkeypatch.setattr("packformer.corpus.preparation._BATCH_BYTES", 700)


def content(folder):
    return {
        file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.name[0] != "."
    }


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


def test_an_interruption_changes_no_byte_and_redoes_no_part(corpus, tmp_path, monkeypatch):
    small_parts(monkeypatch)
    prepare(preparation(corpus[0], tmp_path / "whole"))
    made = None
    for number in range(1, 8):

        def stop(progress, number=number):
            if not progress.text:
                return
            if (tmp_path / "cut" / JOURNAL).read_text().count("place") >= number:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            prepare(preparation(corpus[0], tmp_path / "cut"), stop)
        assert not (tmp_path / "cut" / "manifest.json").exists()
        first = tmp_path / "cut" / "train-00000.tokens"
        made = made or first.stat().st_mtime_ns
        assert first.stat().st_mtime_ns == made
    prepare(preparation(corpus[0], tmp_path / "cut"))
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_a_line_of_the_journal_that_was_cut_off_is_forgotten(corpus, tmp_path, monkeypatch):
    small_parts(monkeypatch)
    prepare(preparation(corpus[0], tmp_path / "whole"))

    def stop(progress):
        if progress.text > 15_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(preparation(corpus[0], tmp_path / "cut"), stop)
    journal = tmp_path / "cut" / JOURNAL
    journal.write_text(journal.read_text()[:-20])
    prepare(preparation(corpus[0], tmp_path / "cut"))
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def _is_alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("number", range(3))
def test_a_killed_process_is_gone_on_with(corpus, tmp_path, number):
    texts = make_texts(8000, seed=number)
    file = tmp_path / "b.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    arguments = [str(file), "--vocab-size", "300", "--shard-mib", "1", "--workers", "2"]
    code = (
        "from packformer.cli import main; from packformer.corpus import preparation; "
        "preparation._FEW = 0; main()"
    )
    command = [sys.executable, "-c", code, "prepare", *arguments, "--output"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    process = subprocess.Popen(
        [*command, str(tmp_path / "cut")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.time() + 60
    while time.time() < deadline and process.poll() is None:
        if len(list((tmp_path / "cut").glob("train-*.tokens"))) > number // 2:
            break
        time.sleep(0.01)
    process.kill()
    process.wait()
    while time.time() < deadline and _is_alive(process.pid):
        time.sleep(0.01)
    assert not _is_alive(process.pid), "its processes end with it"
    subprocess.run([*command, str(tmp_path / "cut")], check=True, capture_output=True)
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_a_kill_between_manifest_and_journal_is_gone_on_with(corpus, tmp_path, monkeypatch):
    prepare(preparation(corpus[0], tmp_path / "whole"))

    def save(manifest, folder):
        saved(manifest, folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        saved = shards.Manifest.save
        patch.setattr(shards.Manifest, "save", save)
        with pytest.raises(KeyboardInterrupt):
            prepare(preparation(corpus[0], tmp_path / "cut"))
    prepare(preparation(corpus[0], tmp_path / "cut"))
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_a_tokenizer_is_not_trained_again(corpus, tmp_path, monkeypatch):
    def stop(progress):
        if progress.doing == "tokenizing":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(preparation(corpus[0], tmp_path / "c"), stop)
    monkeypatch.setattr(module_under_test, "train_bpe", None)
    assert prepare(preparation(corpus[0], tmp_path / "c")).train
    monkeypatch.undo()
    prepare(preparation(corpus[0], tmp_path / "whole"))
    assert content(tmp_path / "c") == content(tmp_path / "whole")


def test_what_failed_before_its_first_part_binds_nobody(corpus, tmp_path):
    wrong = Input((str(corpus[0]),), field="body")
    said = r"but text: set the field \(to leave such documents out: --skip-invalid\)"
    with pytest.raises(ValueError, match=rf"has no field 'body', {said}"):
        prepare(replace(preparation(corpus[0], tmp_path / "c"), input=wrong))
    assert prepare(preparation(corpus[0], tmp_path / "c")).train


def test_a_corpus_among_its_input_or_other_files_is_refused(corpus, tmp_path):
    with pytest.raises(ValueError, match=r"/c lies within the input .*: choose another"):
        prepare(preparation(tmp_path, tmp_path / "c"))
    assert not (tmp_path / "c").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"mine holds tokenizer.json and is no corpus: choose an"):
        prepare(preparation(corpus[0], tmp_path / "mine"))
    assert (tmp_path / "mine" / "tokenizer.json").read_text() == "{}"


def test_input_that_is_not_there_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="missing.txt does not exist"):
        prepare(preparation(tmp_path / "missing.txt", tmp_path / "c"))
    assert not (tmp_path / "c").exists()


def test_a_finished_corpus_is_left_alone(corpus, tmp_path):
    prepare(preparation(corpus[0], tmp_path / "c"))
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "c").glob("*.*")}
    prepare(preparation(corpus[0], tmp_path / "c"))
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "c").glob("*.*")}


@pytest.mark.parametrize("finished", [False, True])
def test_a_folder_with_something_else_is_refused(corpus, tmp_path, monkeypatch, finished):
    small_parts(monkeypatch)

    def stop(progress):
        if not finished and progress.text > 10_000:
            raise KeyboardInterrupt

    if finished:
        prepare(preparation(corpus[0], tmp_path / "c"))
    else:
        with pytest.raises(KeyboardInterrupt):
            prepare(preparation(corpus[0], tmp_path / "c"), stop)
    with pytest.raises(ValueError, match=r"other files or with other settings: choose another"):
        prepare(preparation(corpus[0], tmp_path / "c", validation_fraction=0.3))


def test_two_processes_do_not_share_a_folder(corpus, tmp_path):
    (tmp_path / "c").mkdir()
    with (
        FileLock(tmp_path / "c" / ".lock"),
        pytest.raises(ValueError, match=r"another process is preparing into .*c: wait for it"),
    ):
        prepare(preparation(corpus[0], tmp_path / "c"))


def test_a_full_disk_keeps_what_is_finished(corpus, tmp_path, monkeypatch):
    small_parts(monkeypatch)
    prepare(preparation(corpus[0], tmp_path / "whole"))
    write = ShardWriter._write

    def full(self, data):
        if "00003" in self._file.name:
            raise OSError(errno.ENOSPC, "No space left on device", str(self._file))
        write(self, data)

    monkeypatch.setattr(ShardWriter, "_write", full)
    message = r"00003.tokens: No space left on device \(kept: 3 finished parts; the same command"
    with pytest.raises(ValueError, match=message):
        prepare(preparation(corpus[0], tmp_path / "c"))
    assert not list((tmp_path / "c").glob(".*tokens"))
    monkeypatch.setattr(ShardWriter, "_write", write)
    prepare(preparation(corpus[0], tmp_path / "c"))
    assert content(tmp_path / "c") == content(tmp_path / "whole")


def test_a_bad_line_stops_and_finished_parts_are_kept(corpus, tmp_path, monkeypatch):
    small_parts(monkeypatch)
    file, _ = corpus
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*lines[:200], "{oops\n", *lines[200:]]))
    with pytest.raises(
        ValueError, match=r"a.jsonl, line 201, cannot be read as JSON.*kept: \d+ finished p"
    ):
        prepare(preparation(file, tmp_path / "c", sample_mib=1))
    assert (tmp_path / "c" / "train-00000.tokens").exists()


def test_what_is_not_utf8_is_left_out_and_counted_if_asked(tmp_path):
    for number, text in enumerate(make_texts(20)):
        (tmp_path / f"{number}.txt").write_text(text)
    (tmp_path / "bad.txt").write_bytes(b"abc\xff")
    with pytest.raises(ValueError, match=r"bad.txt is not UTF-8 \(byte 3\)"):
        prepare(preparation(tmp_path, beside(tmp_path, "strict")))
    manifest = prepare(preparation(tmp_path, beside(tmp_path, "lax"), skip_invalid=True))
    assert manifest.left_out.not_utf8 == 1


@pytest.mark.parametrize("place", [0, 1])
def test_a_long_file_that_is_not_utf8_is_left_out_whole(tmp_path, monkeypatch, place):
    for module in (documents, encode):
        monkeypatch.setattr(module, "PIECE", 64)
    parts = [b"some words of text\n" * 10] * 2
    parts[place] += b"\xff"
    (tmp_path / "a.txt").write_bytes(b"".join(parts))
    (tmp_path / "b.txt").write_text("a good one")
    made = preparation(tmp_path, beside(tmp_path), skip_invalid=True)
    (tmp_path / "c.txt").write_text("another good one")
    manifest = prepare(made)
    assert (manifest.left_out.not_utf8, count_of(manifest)) == (1, 2)


def test_rows_of_a_table_that_are_not_utf8_are_left_out(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"n,text\n1,good\n2,\xff\n3,good too\n")
    made = preparation(tmp_path / "a.csv", tmp_path / "c", skip_invalid=True)
    manifest = prepare(made)
    assert (manifest.left_out.not_utf8, count_of(manifest)) == (1, 2)


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


def test_an_empty_corpus_leaves_its_folder_free(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "full.txt").write_text("words and words")
    with pytest.raises(ValueError, match="holds no document"):
        prepare(preparation(tmp_path / "empty.txt", tmp_path / "c"))
    assert not (tmp_path / "c").exists()
    assert prepare(preparation(tmp_path / "full.txt", tmp_path / "c"))


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


def test_nothing_but_empty_documents_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n' * 3)
    with pytest.raises(
        ValueError, match=r"holds no document, left out: 3 empty: give files with text$"
    ):
        prepare(preparation(tmp_path / "a.jsonl", tmp_path / "c"))


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
    tokenizer = train_bpe(corpus[1], 280)
    tokenizer.add_tokens([f"<{n}>" for n in range(70_000)])
    tokenizer.save(str(tmp_path / "t.json"))
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 10}, r"vocab-size \(10\) must be a whole number from 258 up"),
        ({"workers": 0}, r"workers \(0\) must be a whole number from 1 up"),
        ({"shard_mib": 0}, r"shard-mib \(0\)"),
        (
            {"validation_fraction": 1.0},
            r"validation-fraction \(1.0\) must be from 0 up",
        ),
    ],
)
def test_impossible_settings_are_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        preparation("x", tmp_path, **options)


class TestDamage:
    @pytest.fixture
    def folder(self, corpus, tmp_path):
        self.manifest = prepare(preparation(corpus[0], tmp_path / "c"))
        return tmp_path / "c"

    def verify(self, folder, **changes):
        shard = self.manifest.train[0]
        verify_shard(folder / shard.file, shard, "uint16", changes.get("vocab_size", 300))

    def test_a_shard_cut_short(self, folder):
        file = folder / "train-00000.tokens"
        data = file.read_bytes()
        file.write_bytes(data[:-5])
        with pytest.raises(ValueError, match=rf"ends at byte {len(data) - 5:,}, its manifest"):
            self.verify(folder)

    def test_a_flipped_byte(self, folder):
        file = folder / "train-00000.tokens"
        data = bytearray(file.read_bytes())
        data[100] ^= 1
        file.write_bytes(data)
        with pytest.raises(ValueError, match=r"train-00000.tokens: its SHA-256 is"):
            self.verify(folder)

    def test_damaged_ends(self, folder):
        file = folder / "train-00000.tokens"
        data = bytearray(file.read_bytes())
        data[-16:-8] = (2**40).to_bytes(8, "little")
        file.write_bytes(data)
        with pytest.raises(ValueError, match=r"its document ends do not ascend"):
            self.verify(folder)

    def test_a_missing_shard(self, folder):
        (folder / "train-00000.tokens").unlink()
        with pytest.raises(ValueError, match=r"train-00000.tokens is missing: its manifest"):
            self.verify(folder)

    def test_ids_beyond_the_vocabulary(self, folder):
        with pytest.raises(ValueError, match=r"byte [\d,]+: token id \d+ lies outside the voc"):
            self.verify(folder, vocab_size=200)

    def test_another_tokenizer(self, folder):
        train_bpe(["x y z"], 270).save(str(folder / "tokenizer.json"))
        with pytest.raises(ValueError, match=r"is not the tokenizer its shards were made with"):
            check_tokenizer(self.manifest, folder / "tokenizer.json")

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "train": 3}'])
    def test_no_manifest(self, text):
        with pytest.raises(ValueError, match=r"m.json is no manifest .*: copy it again, or"):
            load_manifest(text, "m.json")


def test_the_shards_do_not_depend_on_the_machine(tmp_path):
    writer = ShardWriter(tmp_path / "a.tokens", "uint16")
    writer.add(np.array([1, 2, 3, 258], dtype=np.uint16), np.array([3]), 9, 8)
    writer.add(np.array([5], dtype=np.uint16), np.array([1]), 1, 1)
    shard = writer.finish()
    ids = bytes([1, 0, 2, 0, 3, 0, 2, 1, 5, 0]) + bytes(6)
    ends = (3).to_bytes(8, "little") + (5).to_bytes(8, "little")
    assert (tmp_path / "a.tokens").read_bytes() == ids + ends
    assert shard == shards.Shard("a.tokens", shards.hash_file(tmp_path / "a.tokens"), 2, 5, 10, 9)


def test_processes_start_without_torch():
    code = "import sys, packformer.corpus; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
