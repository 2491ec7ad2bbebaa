"""Text is prepared in a process of its own while another still imports torch."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from packformer.data import ahead as module
from packformer.data.ahead import prepared_ahead
from packformer.data.text import StandardLibrary, TextFiles


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path / "cache"))
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(20):
        (texts / f"{number}.txt").write_text(f"text number {number}, " * (number + 1))
    return {"_target_": "packformer.data.TextFiles", "path": str(texts), "vocab_size": 270}


@pytest.fixture
def nothing_started(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)


def test_a_corpus_is_made_meanwhile(data, monkeypatch):
    text = TextFiles(data["path"], vocab_size=270)
    with prepared_ahead(data) as ahead:
        ahead.wait()
    assert text.request().is_made()
    monkeypatch.setattr("packformer.data.text.prepare", None)  # nothing is left to do
    splits = text.prepare()
    assert splits.train.num_documents + splits.validation.num_documents == 20


def test_its_process_imports_no_torch():
    code = "import sys, packformer.data.ahead; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_what_the_cache_has_is_not_made_again(data, nothing_started):
    TextFiles(data["path"], vocab_size=270).prepare()
    with prepared_ahead(data) as ahead:
        ahead.wait()


@pytest.mark.parametrize(
    "changes",
    [
        {"_target_": "packformer.data.RandomDocuments"},
        {"_target_": "my_parts.Texts"},
        {"vocabulary": 300},
    ],
)
def test_other_data_and_unknown_settings_are_left_to_the_run(data, changes, nothing_started):
    with prepared_ahead({**data, **changes}) as ahead:
        ahead.wait()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 7}, "vocab_size"),
        ({"path": "nowhere"}, "nowhere does not exist"),
        (
            {"path": "empty"},
            r"empty holds no file except .*\(1 hidden file or folder\): give",
        ),
        ({"tokenizer": "empty/.x"}, "empty/.x is no tokenizer.json"),
    ],
)
def test_what_is_wrong_is_told_before_torch_is_imported(
    data, changes, message, nothing_started, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".x").write_text("no JSON")
    with pytest.raises(ValueError, match=message), prepared_ahead({**data, **changes}):
        pytest.fail("the body ran")


def test_a_failure_is_told_without_trying_again(data, capfd):
    with open(f"{data['path']}/7.txt", "wb") as file:
        file.write(b"\xff\xfe\xfd")
    with prepared_ahead(data) as ahead, pytest.raises(ValueError, match="7.txt") as told:
        ahead.wait()
    with pytest.raises(ValueError, match="7.txt") as again:
        TextFiles(data["path"], vocab_size=270).prepare()
    assert str(told.value) == str(again.value)
    printed = capfd.readouterr().err
    assert "Traceback" not in printed
    assert printed.count("tokenizing") == 1


def test_what_the_files_may_be_meant_as_is_told_once(data, capfd, caplog):
    for number in range(19):
        (Path(data["path"]) / f"{number}.txt").unlink()
    (Path(data["path"]) / "list.json").write_text("[1, 2]")
    told = "list.json: JSON without the field 'text', read as plain text"
    with prepared_ahead(data) as ahead:
        ahead.wait()
    TextFiles(data["path"], vocab_size=270).prepare()
    assert (capfd.readouterr().err + caplog.text).count(told) == 1
    assert caplog.text.count("was cut: its last") == 1, "it is known at the end alone"


def test_what_another_run_was_told_is_told_to_this_one(data, caplog):
    (Path(data["path"]) / "list.json").write_text("[1, 2]")
    code = (
        "from packformer.data.text import TextFiles\n"
        f"TextFiles({data['path']!r}, vocab_size=270).request().make()"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    with prepared_ahead(data) as ahead:
        ahead.wait()
    TextFiles(data["path"], vocab_size=270).prepare()
    told = "list.json: JSON without the field 'text', read as plain text"
    assert other.stderr.count(told) == caplog.text.count(told) == 1


def test_a_run_that_prepares_by_itself_tells_it_once(data, caplog):
    (Path(data["path"]) / "list.json").write_text("[1, 2]")
    for _ in range(2):
        TextFiles(data["path"], vocab_size=270).prepare()
    told = "list.json: JSON without the field 'text', read as plain text"
    assert caplog.text.count(told) == 1


def test_it_is_told_though_the_text_cannot_be_prepared(data, capfd):
    (Path(data["path"]) / "list.json").write_text("[1, 2]")
    (Path(data["path"]) / "7.txt").write_bytes(b"\xff\xfe\xfd")
    with prepared_ahead(data) as ahead, pytest.raises(ValueError, match="7.txt"):
        ahead.wait()
    assert capfd.readouterr().err.count("list.json: JSON without the field") == 1


def test_a_process_that_is_killed_is_told(data, monkeypatch):
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    monkeypatch.setattr(module, "_CODE", code)
    with (
        prepared_ahead(data) as ahead,
        pytest.raises(OSError, match="the text ended with signal 9, maybe for want of memory"),
    ):
        ahead.wait()


def test_a_preparation_ends_with_its_run_and_is_continued(tmp_path, monkeypatch):
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path))
    data = {"_target_": "packformer.data.StandardLibrary", "vocab_size": 30_000}
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(
        module.subprocess, "Popen", lambda *a, **o: started.append(popen(*a, **o)) or started[-1]
    )
    with prepared_ahead(data):
        while not list(tmp_path.glob("corpora/*.unfinished")):
            time.sleep(0.01)
    (process,) = started
    assert process.returncode is not None, "it is gone"
    assert not StandardLibrary(30_000).request().is_made()
    with prepared_ahead(data):
        pass  # its lock is free
