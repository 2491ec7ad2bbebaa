"""What is left out is counted and said in the same words wherever the text is used."""

import gzip
import json
import logging

import pytest

from packformer.cli import main
from packformer.corpus import Input, LeftOut, Preparation, documents, load_manifest, prepare
from packformer.data import TextFiles, TokenShards

pytestmark = pytest.mark.usefixtures("blank")

ROWS = [json.dumps({"text": f"some words {number}"}) for number in range(40)]
BAD = {
    '{"text": null}': "null",
    '{"text": ""}': "empty",
    '{"text": "\\ud800"}': "not_utf8",
    '{"text": 7}': "invalid",
    '{"text": ["a"]}': "invalid",
    '{"body": "a"}': "invalid",
    '{"text": "a", "text": "b"}': "invalid",
    '{"text": "a"': "invalid",
    "no JSON": "invalid",
    "[1]": "invalid",
}
SENTENCE = "left out: 1 empty, 1 null, 1 not UTF-8, 7 invalid; of files and folders 1 hidden"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    """Good lines and bad ones, and a hidden file."""
    place = tmp_path / "texts"
    place.mkdir()
    (place / "a.jsonl").write_text("\n".join([*ROWS[:20], *BAD, *ROWS[20:]]))
    (place / ".hidden").write_text("secret")
    return place


def asked_for(folder, output, **options):
    defaults = {"vocab_size": 270, "validation_fraction": 0.1, "skip_invalid": True}
    return Preparation(Input((str(folder),)), output, **(defaults | options))


def made(folder, output, **options):
    return prepare(asked_for(folder, output, **options))


def interrupted(folder, output, monkeypatch):
    """A preparation that was stopped after some of many small parts."""
    monkeypatch.setattr("packformer.corpus.preparation._MIB", 200)
    monkeypatch.setattr("packformer.corpus.preparation._BATCH_BYTES", 100)
    stopped = asked_for(folder, output)

    def stop(progress):
        if progress.text > 300:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(stopped, stop)
    return stopped


@pytest.mark.parametrize("bad", BAD)
def test_each_kind_is_counted_or_an_error(tmp_path, bad):
    (tmp_path / "a.jsonl").write_text("\n".join([*ROWS, bad]))
    counts = made(tmp_path / "a.jsonl", tmp_path / "lax").left_out
    assert counts == LeftOut(**{BAD[bad]: 1})
    if BAD[bad] in ("null", "empty"):
        strict = made(tmp_path / "a.jsonl", tmp_path / "strict", skip_invalid=False)
        assert strict.left_out == counts
    else:
        with pytest.raises(ValueError, match=r"a.jsonl, line 41, .*documents out: --skip-invalid"):
            made(tmp_path / "a.jsonl", tmp_path / "strict", skip_invalid=False)


def test_prepare_text_and_shards_say_the_same(folder, tmp_path, capsys, caplog):
    output = tmp_path / "corpus"
    options = ["--vocab-size", "270", "--validation-fraction", "0.1", "--skip-invalid"]
    with caplog.at_level(logging.WARNING):
        main(["prepare", str(folder), "--output", str(output), *options])
    assert f"{SENTENCE}\n" in capsys.readouterr().out
    assert TokenShards(str(output)).prepare().description.endswith(f", {SENTENCE}")
    files = TextFiles(str(folder), vocab_size=270, skip_invalid=True)
    assert files.prepare().description.endswith(f", {SENTENCE}")
    assert files.prepare().description.endswith(f", {SENTENCE}"), "from the cache too"
    main(["inspect", str(output)])
    assert SENTENCE in " ".join(capsys.readouterr().out.split())


def test_the_first_of_a_kind_is_named(folder, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        made(folder, tmp_path / "corpus")
    told = [message for message in caplog.messages if "the first of its kind" in message]
    kinds = {
        "not UTF-8": "line 23, is not UTF-8 (character 0 of its text)",
        "without text in the field": "line 24, has a number in the field 'text', not text: write",
        "without the field": "line 26, has no field 'text', but body",
        "with the field more than once": "line 27, has the field 'text' more than once",
        "no JSON": "line 28, cannot be read as JSON",
        "JSON, but no object": "line 30, is an array, not an object",
    }
    assert len(told) == len(kinds)
    for message, (kind, words) in zip(told, kinds.items(), strict=True):
        assert f"the first of its kind ({kind}): " in message
        assert f"a.jsonl, {words}" in message
    assert caplog.messages[-1] == (
        "left out as invalid: 2 no JSON, 1 JSON, but no object, 1 without the field, "
        "1 with the field more than once, 2 without text in the field"
    )


def test_kinds_of_an_interrupted_preparation_are_counted_too(folder, tmp_path, monkeypatch, caplog):
    (folder / "b.csv").write_text("text,n\n" + "a,1,2\n" * 3)
    (folder / "c.zip").write_text("packed")
    prepare(interrupted(folder, tmp_path / "cut", monkeypatch))
    assert caplog.messages[-1] == (
        "left out as invalid: 2 no JSON, 1 JSON, but no object, 1 without the field, "
        "1 with the field more than once, 2 without text in the field, "
        "3 of another number of columns, 1 archived or damaged"
    )


def test_an_interruption_forgets_no_count(folder, tmp_path, monkeypatch):
    stopped = interrupted(folder, tmp_path / "cut", monkeypatch)
    assert prepare(stopped).left_out == made(folder, tmp_path / "whole").left_out


def test_what_may_be_meant_otherwise_is_kept_with_the_corpus(tmp_path, caplog):
    (tmp_path / "a.txt").write_text("\n".join(ROWS))
    remarks = made(tmp_path / "a.txt", tmp_path / "corpus").remarks
    wanted = f"{tmp_path}/a.txt: JSON objects, but read as plain text for the name of the file"
    assert any(remark.startswith(wanted) for remark in remarks)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        TokenShards(str(tmp_path / "corpus")).prepare()
    assert wanted in caplog.text


@pytest.mark.parametrize("command", ["prepare", "plan"])
def test_the_command_line_takes_the_settings_of_reading(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    table = "".join(f'{n}|"some words {n}\n' for n in range(50))
    (tmp_path / "a.txt").write_text("id|body\n7|a|b\n" + table)
    reading = ["--format", "csv", "--field", "body", "--quoting", "none", "--skip-invalid"]
    rest = ["--vocab-size", "270", "--output", "out"]
    main([command, "a.txt", *reading, *rest])
    out = capsys.readouterr().out
    assert "left out: 1 invalid" in " ".join(out.split())


def test_text_files_take_the_settings_of_reading(tmp_path):
    (tmp_path / "a.txt").write_text("id\ttext\n" + "".join(f'{n}\t"words {n}\n' for n in range(9)))
    files = TextFiles(str(tmp_path / "a.txt"), vocab_size=270, format="csv", quoting="none")
    assert files.prepare().description.startswith(f"{tmp_path}/a.txt: 9 documents")
    with pytest.raises(ValueError, match=r"quoting \(most\) must be one of auto, double, none"):
        TextFiles(str(tmp_path / "a.txt"), quoting="most").prepare()


def test_manifests_from_before_there_were_kinds_are_read(folder, tmp_path):
    made(folder, tmp_path / "corpus")
    values = json.loads((tmp_path / "corpus" / "manifest.json").read_text())
    del values["left_out"]
    manifest = load_manifest(json.dumps({**values, "empty": 3, "skipped": 2}), "manifest.json")
    assert manifest.left_out == LeftOut(empty=3, not_utf8=2)


DAMAGED = {
    "a.txt.gz": gzip.compress(b"some text " * 90)[:-9],
    "a.txt.xz": b"no xz",
    "a.txt.bz2": b"no bzip2",
    "a.json.gz": b"no gzip",
    "a.tar.gz": b"",
    "a.zip": b"PK",
    "a.txt.lz4": b"x",
    "a.parquet": b"PAR1 and no more",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_file_that_cannot_be_read_names_the_setting_that_leaves_it_out(tmp_path, name):
    place = tmp_path / "texts"
    place.mkdir()
    for number in range(9):
        (place / f"{number}.txt").write_text(f"some words {number}")
    (place / name).write_bytes(DAMAGED[name])
    strict = TextFiles(str(place), vocab_size=270)
    with pytest.raises(ValueError, match=rf"{name} .*out: data.skip_invalid=true\)$") as told:
        strict.prepare()
    assert "\n" not in str(told.value)
    splits = TextFiles(str(place), vocab_size=270, skip_invalid=True).prepare()
    assert splits.train.num_documents + splits.validation.num_documents == 9
    assert splits.description.endswith("left out: 1 invalid")


def test_records_before_a_damage_are_read(tmp_path):
    lines = "".join(f"{row}\n" for row in ROWS * 500).encode()  # more than is read at once
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines) + b"no more gzip")
    manifest = made(tmp_path, tmp_path.with_name(f"{tmp_path.name} made"))
    assert manifest.left_out == LeftOut(invalid=1)
    read = sum(shard.documents for shard in (*manifest.train, *manifest.validation))
    assert 0 < read <= 500 * len(ROWS)


def test_of_a_long_text_that_is_damaged_at_its_end_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "PIECE", 64)
    (tmp_path / "a.txt").write_text("a good one")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"some words of text\n" * 99)[:-9])
    (tmp_path / "c.txt").write_text("another good one")
    manifest = made(tmp_path, tmp_path.with_name(f"{tmp_path.name} made"))
    assert manifest.left_out == LeftOut(invalid=1)
    assert sum(shard.documents for shard in (*manifest.train, *manifest.validation)) == 2
