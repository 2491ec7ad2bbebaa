"""Text that cannot be read is refused in one line, or left out if asked."""

import logging

import pytest
from tokenizers import Tokenizer

from packformer.data import TextFiles

from .conftest import all_texts, prepare, write


def test_a_missing_tokenizer_is_named(folder):
    write(folder, a="alpha", b="beta")
    with pytest.raises(ValueError, match=r"tokenizer .*own\.json does not exist"):
        prepare(folder, tokenizer=str(folder / "own.json"))


@pytest.mark.parametrize("fraction", [1, -0.1, 1.5, "half"])
def test_validation_fraction_must_lie_between(folder, fraction):
    write(folder, a="alpha", b="beta")
    message = rf"data.validation_fraction \({fraction}\) must be from 0 up and below 1"
    with pytest.raises(ValueError, match=message):
        prepare(folder, validation_fraction=fraction)


def test_file_that_is_not_utf8_is_named_with_the_byte(folder):
    write(folder, a="alpha", b="beta")
    (folder / "latin.txt").write_bytes(b"0123 caf\xe9 noir")
    with pytest.raises(
        ValueError, match=r"latin\.txt is not UTF-8 \(byte 8\).*data.skip_invalid=true"
    ):
        prepare(folder)


def test_jsonl_line_that_is_not_utf8_is_named_with_line_and_byte(folder):
    path = folder / "data.jsonl"
    path.write_bytes(b'{"text": "a"}\n\n{"text": "\xff"}\n')
    with pytest.raises(ValueError, match=r"data\.jsonl, line 3, is not UTF-8 \(byte 10\)"):
        prepare(path)


def test_skip_invalid_leaves_out_and_counts_what_is_not_utf8(folder):
    write(folder, a="alpha", b="beta")
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    (folder / "data.jsonl").write_bytes(b'{"text": "c"}\n{"text": "\xff"}\n')
    splits = prepare(folder, skip_invalid=True)
    assert all_texts(splits) == ["alpha", "beta", "c"]
    assert splits.description.endswith("left out: 2 not UTF-8")


@pytest.mark.parametrize("skip_invalid", [False, True])
def test_half_a_surrogate_pair_in_jsonl_is_not_utf8(folder, skip_invalid):
    path = folder / "data.jsonl"
    path.write_text('{"text": "a"}\n{"text": "x \\ud800"}\n{"text": "b"}\n')
    if skip_invalid:
        assert all_texts(prepare(path, skip_invalid=True)) == ["a", "b"]
    else:
        with pytest.raises(ValueError, match=r"data\.jsonl, line 2"):
            prepare(path)


@pytest.mark.parametrize("bad", ["{", "text", "{'text': 'a'}"])
def test_bad_json_is_named_with_its_line(folder, bad):
    path = folder / "data.jsonl"
    path.write_text(f'{{"text": "a"}}\n\n{bad}\n')
    with pytest.raises(ValueError, match=r"data\.jsonl, line 3, cannot be read as JSON \("):
        prepare(path)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ('{"body": "b"}', "has no field 'text', but body: set data.field \\(to leave"),
        (
            '{"text": {"body": "b"}}',
            "has an object in the field 'text', not text: set data.field to t",
        ),
        ('{"text": 3}', "has a number in the field 'text', not text: write it as"),
        ('["text"]', "is an array, not an object with 'text'"),
        ("7", "is a number, not an object with 'text'"),
    ],
)
def test_json_without_the_text_is_named_with_its_line(folder, bad, message):
    path = folder / "data.jsonl"
    path.write_text(f'{{"text": "a"}}\n{bad}\n')
    with pytest.raises(ValueError, match=rf"data\.jsonl, line 2, {message}"):
        prepare(path)


def test_missing_path_is_named(folder):
    with pytest.raises(ValueError, match=r"data\.path .*nowhere does not exist: give a file"):
        prepare(folder / "nowhere")
    write(folder, nowhere="alpha")
    with pytest.raises(ValueError, match=r"nowhere does not exist: did you mean .*nowhere\.txt\?"):
        prepare(folder / "nowhere")


@pytest.mark.parametrize("num_empty", [0, 2])
def test_folder_without_text_is_named(folder, num_empty):
    write(folder, **{f"f{n}": "" for n in range(num_empty)})
    message = r"texts holds no document, left out: 2 empty"
    with pytest.raises(ValueError, match=message if num_empty else "texts holds no file"):
        prepare(folder)


def test_folder_of_invalid_files_alone_is_named(folder):
    (folder / "a.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"holds no document, left out: 1 not UTF-8"):
        prepare(folder, skip_invalid=True)


@pytest.mark.parametrize("path", ["", " ", None])
def test_an_empty_path_is_refused(path):
    with pytest.raises(ValueError, match=r"data.path \(.*\) must be a path"):
        TextFiles(path).prepare()


def test_a_tokenizer_that_loses_text_is_warned_of(folder, tmp_path, caplog):
    from tokenizers import decoders, models, pre_tokenizers, trainers

    write(folder, a="plain words", b="\u4f60\u597d, \u4e16\u754c! " * 9, c="more words")
    lossy = Tokenizer(models.BPE())
    lossy.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    lossy.decoder = decoders.ByteLevel()
    lossy.train_from_iterator(["plain words"], trainers.BpeTrainer(show_progress=False))
    lossy.save(str(tmp_path / "own.json"))
    with caplog.at_level(logging.WARNING):
        splits = prepare(folder, tokenizer=str(tmp_path / "own.json"))
    assert splits.byte_lengths is None
    assert "no bits per byte are reported" in caplog.text


def test_unknown_words_are_warned_of(folder, tmp_path, caplog):
    from tokenizers import models, pre_tokenizers

    write(folder, a="alpha beta gamma", b="beta gamma delta")
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "alpha": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "own.json"))
    with caplog.at_level(logging.WARNING):
        assert prepare(folder, tokenizer=str(tmp_path / "own.json")).byte_lengths is None
    assert "(71.9 %), 50.0 % of the tokens are [UNK]" in caplog.text
