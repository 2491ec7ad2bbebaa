"""A prepared corpus is never read as text, and is found by its manifest."""

import re
import shutil
from pathlib import Path

import pytest

from packformer.cli import main
from packformer.corpus import Input, Preparation, prepare
from packformer.corpus.prepared import corpus_at
from packformer.data import TextFiles, TokenShards

pytestmark = pytest.mark.usefixtures("blank")

PARTS = ("manifest.json", "tokenizer.json", "train-00000.tokens", ".progress.jsonl")
FINISHED = "a prepared corpus, not text: use data=shards data.path={}, or leave it out"
INTERRUPTED = (
    "an interrupted corpus, not text: continue it with the `packformer prepare` that began it, or "
    "leave it out"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    for number in range(40):
        (folder / f"{number}.txt").write_text(f"some words of text {number} " * 5)
    given = Input((str(folder),))
    prepare(Preparation(given, folder.with_name("c"), vocab_size=300, validation_fraction=0.2))
    return folder.with_name("c")


@pytest.fixture
def corpus(made, tmp_path, monkeypatch):
    """``c`` in the current folder."""
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(made, tmp_path / "c").name)


def interrupt(corpus, *also_missing):
    for name in ("manifest.json", *also_missing):
        (corpus / name).unlink()


def refused(*paths):
    with pytest.raises(ValueError, match="corpus, not text") as error:
        Input(tuple(map(str, paths))).sources()
    return str(error.value)


@pytest.mark.parametrize("below", ["", "inner/deep"])
def test_a_corpus_is_no_text(corpus, below):
    place = Path("in") / below / "c"
    shutil.copytree(corpus, place)
    assert refused("in") == f"{place} is {FINISHED.format(place)}"
    assert refused(place) == refused(f"{place}/") == f"{place} is {FINISHED.format(place)}"


@pytest.mark.parametrize("part", PARTS)
def test_a_file_of_a_corpus_is_no_text(corpus, part, monkeypatch):
    assert refused(corpus / part) == f"c/{part} belongs to {FINISHED.format('c')}"
    Path("in").mkdir()
    Path("in/link").symlink_to(f"../c/{part}")
    place = corpus.resolve()
    assert refused("in") == refused("in/link") == f"in/link belongs to {FINISHED.format(place)}"
    monkeypatch.chdir(corpus)
    assert refused(part) == f"{part} belongs to {FINISHED.format('.')}"


def test_all_files_of_a_corpus_are_no_text(corpus):
    assert "belongs to a prepared corpus" in refused(*sorted(corpus.glob("[!.]*")))


@pytest.mark.parametrize("missing", [[], ["tokenizer.json"], ["shards"]])
def test_an_interrupted_corpus_is_no_text(corpus, missing):
    shards = [file.name for file in corpus.glob("*.tokens")]
    interrupt(corpus, *(shards if missing == ["shards"] else missing))
    assert refused(corpus) == f"c is {INTERRUPTED}"
    left = next(file for file in corpus.iterdir() if file.name in ("tokenizer.json", *shards))
    assert refused(left) == f"{left} belongs to {INTERRUPTED}"


@pytest.mark.parametrize("missing", [["*.tokens"], ["*.tokens", ".*"], [".*"], ["t*.json", ".*"]])
def test_a_corpus_that_lost_files_is_no_text(corpus, missing):
    for pattern in missing:
        for file in corpus.glob(pattern):
            file.unlink()
    assert refused(corpus) == f"c is {FINISHED.format('c')}"


def test_a_corpus_with_a_damaged_manifest_is_no_text(corpus):
    (corpus / "manifest.json").write_text("{")
    assert refused(corpus) == f"c is {FINISHED.format('c')}"


def test_the_files_of_other_programs_are_text(tmp_path):
    for name in ("manifest.json", "tokenizer.json", "a.txt"):
        (tmp_path / name).write_text('{"name": "an app"}')
    assert len(Input((str(tmp_path),)).sources()) == 3
    assert len(Input((str(tmp_path / "manifest.json"),)).sources()) == 1
    assert len(Input((str(tmp_path / "tokenizer.json"),)).sources()) == 1


def test_files_that_are_only_called_so_are_text(tmp_path):
    for name in ("manifest.json", "a.tokens"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("text")
    assert len(Input((str(tmp_path),)).sources()) == 2
    (tmp_path / "tokenizer.json").write_text("text")
    assert len(Input((str(tmp_path),)).sources()) == 3


@pytest.mark.parametrize("path", ["c", *(f"c/{part}" for part in PARTS)])
def test_data_text_refuses_a_corpus_and_leaves_nothing(corpus, path):
    with pytest.raises(ValueError, match=re.escape(FINISHED.format("c"))):
        TextFiles(path, vocab_size=300).prepare()
    assert not list(Path("cache").rglob("*.json"))


def test_a_manifest_stands_for_its_corpus(corpus, monkeypatch):
    wanted = TokenShards("c").prepare()
    for path in ("c/manifest.json", ["c/manifest.json"], str(corpus.resolve() / "manifest.json")):
        assert TokenShards(path).prepare().fingerprint == wanted.fingerprint
    monkeypatch.chdir(corpus)
    assert TokenShards("manifest.json").prepare().fingerprint == wanted.fingerprint


@pytest.mark.parametrize(
    ("path", "corpus"),
    [
        ("manifest.json", "."),
        ("/manifest.json", "/"),
        ("a/b/manifest.json", "a/b"),
        ("s3://a/manifest.json", "s3://a"),
        ("a/manifest.jsonl", "a/manifest.jsonl"),
        ("a/", "a/"),
    ],
)
def test_the_corpus_of_a_manifest(path, corpus):
    assert corpus_at(path) == corpus


@pytest.mark.parametrize("path", ["c", "c/manifest.json"])
def test_plan_and_inspect_take_a_corpus_by_its_manifest(corpus, capsys, path):
    rows = ["--row-length", "64", "--max-document-length", "32"]
    main(["plan", path, *rows])
    assert "40 documents" in capsys.readouterr().out
    main(["inspect", path, "--count", "1"])
    assert "vocabulary 300" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["prepare", "--output", "new"], ["plan"]])
@pytest.mark.parametrize("path", ["c", "c/tokenizer.json"])
def test_commands_refuse_an_interrupted_corpus_in_one_line(corpus, capsys, command, path):
    interrupt(corpus)
    with pytest.raises(SystemExit) as stop:
        main([*command, path])
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "interrupted" in error
    assert not Path("new").exists()


def test_plan_reads_text_beside_a_file_that_is_called_a_manifest(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "manifest.json").write_text('{"name": "an app"}')
    (tmp_path / "in" / "a.txt").write_text("some words of text " * 50)
    monkeypatch.chdir(tmp_path)
    main(["plan", "in", "--vocab-size", "300", "--row-length", "64"])
    assert "in: 3 documents" in capsys.readouterr().out
