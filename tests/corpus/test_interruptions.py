"""A preparation that was interrupted continues: no byte changes, no finished part is made again."""

import errno
import json
import os
import time

import pytest
from forks import Forked, run

from packformer.cli import main
from packformer.corpus import preparation as module_under_test
from packformer.corpus import prepare, shards
from packformer.corpus.journal import JOURNAL
from packformer.corpus.shards import ShardWriter

from .conftest import content, make_texts, preparation, small_parts

_QUARTER = 2**18  # of a MiB


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


def _prepare(arguments):
    """The command, of two processes though there is little text, in shards of a quarter."""
    module_under_test._FEW = 0
    module_under_test._MIB = _QUARTER
    main([*arguments, "--workers", "2"])


@pytest.mark.slow
@pytest.mark.parametrize("number", range(3))
def test_a_killed_process_is_gone_on_with(tmp_path, monkeypatch, number):
    monkeypatch.setattr(module_under_test, "_MIB", _QUARTER)
    texts = make_texts(2000, seed=number)
    file = tmp_path / "b.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    command = ["prepare", str(file), "--vocab-size", "300", "--shard-mib", "1", "--output"]
    main([*command, str(tmp_path / "whole")])
    command.append(str(tmp_path / "cut"))
    process = Forked(_prepare, command, cwd=tmp_path)
    deadline = time.time() + 60
    while time.time() < deadline and process.poll() is None:
        if len(list((tmp_path / "cut").glob("train-*.tokens"))) > number // 2:
            break
        time.sleep(0.01)
    process.kill()
    process.wait()
    process.stdout.close()
    while time.time() < deadline and _is_alive(process.pid):
        time.sleep(0.01)
    assert not _is_alive(process.pid), "its processes end with it"
    assert not (tmp_path / "cut" / "manifest.json").exists(), "it had finished"
    code, out = run(_prepare, command, cwd=tmp_path, timeout=60)
    assert code == 0, out
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


def test_a_finished_corpus_is_left_alone(corpus, tmp_path):
    prepare(preparation(corpus[0], tmp_path / "c"))
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "c").glob("*.*")}
    prepare(preparation(corpus[0], tmp_path / "c"))
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "c").glob("*.*")}


def test_a_full_disk_keeps_what_is_finished(corpus, tmp_path, monkeypatch):
    small_parts(monkeypatch)
    prepare(preparation(corpus[0], tmp_path / "whole"))
    write = ShardWriter._write

    def full(self, data):
        if "00003" in self._file.name:
            raise OSError(errno.ENOSPC, "No space left on device", str(self._file))
        write(self, data)

    monkeypatch.setattr(ShardWriter, "_write", full)
    message = (
        r"write .*00003.tokens \(No space left on device\): .* MiB left, and .* MiB are needed "
    )
    message += r"\(kept: 3 finished parts; the same command continues there\)$"
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
