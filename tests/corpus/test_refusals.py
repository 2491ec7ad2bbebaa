"""What preparing refuses, and what it leaves out if asked."""

from dataclasses import replace

import pytest
from filelock import FileLock

from packformer.corpus import Input, documents, encode, prepare

from .conftest import beside, count_of, make_texts, preparation, small_parts


def test_what_failed_before_its_first_part_binds_nobody(corpus, tmp_path):
    wrong = Input((str(corpus[0]),), field="body")
    said = r"but text: set --field \(to leave such documents out: --skip-invalid\)"
    with pytest.raises(ValueError, match=rf"has no field 'body', {said}"):
        prepare(replace(preparation(corpus[0], tmp_path / "c"), input=wrong))
    assert prepare(preparation(corpus[0], tmp_path / "c")).train


def test_the_setting_of_the_field_is_told_as_its_user_names_it_once(tmp_path, caplog):
    lines = ['{"text": "a"}'] * 8 + ['{"text": {"body": "b"}}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    wanted = preparation(tmp_path / "a.jsonl", tmp_path / "c", field_setting="my.field")
    said = r"an object in the field 'text', not text: set my.field to text.body"
    with pytest.raises(ValueError, match=rf"line 9, has {said} \(to leave such documents out: "):
        prepare(wanted)
    prepare(replace(wanted, skip_invalid=True))
    (told,) = (line for line in caplog.messages if "the first of its kind" in line)
    assert told.endswith(
        ", line 9, has an object in the field 'text', not text: set my.field to text.body"
    )


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


@pytest.mark.parametrize("is_there", [False, True])
def test_a_text_too_short_for_two_splits_leaves_the_folder_for_a_longer_one(tmp_path, is_there):
    text = tmp_path / "text.txt"
    text.write_text("x")
    if is_there:
        (tmp_path / "c").mkdir()
    with pytest.raises(ValueError, match="the only document has 3 tokens.* give more text$"):
        prepare(preparation(text, tmp_path / "c"))
    assert (list((tmp_path / "c").iterdir()) == []) if is_there else not (tmp_path / "c").exists()
    text.write_text("a longer text")
    assert prepare(preparation(text, tmp_path / "c")).validation


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


def test_an_empty_corpus_leaves_its_folder_free(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "full.txt").write_text("words and words")
    with pytest.raises(ValueError, match="holds no document"):
        prepare(preparation(tmp_path / "empty.txt", tmp_path / "c"))
    assert not (tmp_path / "c").exists()
    assert prepare(preparation(tmp_path / "full.txt", tmp_path / "c"))


def test_nothing_but_empty_documents_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n' * 3)
    with pytest.raises(
        ValueError, match=r"holds no document, left out: 3 empty: give files with text$"
    ):
        prepare(preparation(tmp_path / "a.jsonl", tmp_path / "c"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 10}, r"vocab-size \(10\) must be a whole number from 258 up"),
        ({"vocab_size": 2**24 + 1}, r"vocab-size \(16777217\) must be at most 16,777,216$"),
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
