"""What is found in folders, and what is said of the rest."""

import os
import socket

import pytest

from packformer.corpus.documents import UndecodableError, text_of
from packformer.corpus.input import Input
from packformer.corpus.left_out import LeftOut


def write(folder, *names):
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)


def found(*paths):
    source = Input(tuple(map(str, paths)))
    texts = [text_of(raw, "text") for name in source.sources() for raw in source.read(name)]
    return texts, source.files_left_out()


def test_links_are_followed_and_loops_end(tmp_path):
    write(tmp_path / "in", "b/1.txt", "c.txt")
    write(tmp_path / "outside", "deep/2.txt", "3.txt")
    (tmp_path / "in" / "a").symlink_to("../outside")
    (tmp_path / "in" / "b" / "4.txt").symlink_to(tmp_path / "outside" / "3.txt")
    (tmp_path / "in" / "b" / "up").symlink_to("..")
    (tmp_path / "outside" / "deep" / "self").symlink_to(".")
    texts, left_out = found(tmp_path / "in")
    assert texts == ["3.txt", "deep/2.txt", "b/1.txt", "c.txt"]
    assert left_out == LeftOut(repeated=3)
    assert str(left_out) == "left out: of files and folders 3 met again and read once"


def test_a_linked_file_and_a_linked_root_are_read(tmp_path):
    write(tmp_path, "real/a.txt")
    (tmp_path / "folder").symlink_to("real")
    (tmp_path / "file").symlink_to("real/a.txt")
    assert found(tmp_path / "folder") == (["real/a.txt"], LeftOut())
    assert found(tmp_path / "file") == (["real/a.txt"], LeftOut())


def test_what_is_given_twice_is_read_once_and_counted(tmp_path):
    write(tmp_path, "a.txt", "b.txt")
    file, folder = tmp_path / "a.txt", tmp_path
    assert found(file, file) == (["a.txt"], LeftOut(repeated=1))
    assert found(folder, file) == (["a.txt", "b.txt"], LeftOut(repeated=1))
    assert found(folder, folder) == (["a.txt", "b.txt"], LeftOut(repeated=1))


def test_hidden_files_and_folders_are_counted(tmp_path):
    write(tmp_path, "a.txt", ".b.txt", ".git/config", ".git/head", "c/.d")
    texts, left_out = found(tmp_path)
    assert texts == ["a.txt"]
    assert str(left_out) == "left out: of files and folders 3 hidden"


@pytest.mark.platform
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes in folders")
def test_pipes_and_sockets_are_named_and_counted(tmp_path, caplog, monkeypatch):
    write(tmp_path, "a.txt")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind("socket")
        assert found(tmp_path) == (["a.txt"], LeftOut(special=2))
    Input((str(tmp_path),)).announce()
    assert f"{tmp_path}/pipe, {tmp_path}/socket: left out, no file but a socket" in caplog.text


@pytest.mark.platform
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes in folders")
def test_a_pipe_that_is_given_as_a_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"pipe is no file but a pipe.*packformer prepare -"):
        found(tmp_path / "pipe")


@pytest.mark.parametrize("target", ["nowhere", "dangling"])
def test_links_that_lead_nowhere_are_refused(tmp_path, target):
    write(tmp_path, "a.txt")
    (tmp_path / "dangling").symlink_to(target)
    with pytest.raises(ValueError, match=rf"dangling is a link to {target}, which cannot be foll"):
        found(tmp_path)


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path, monkeypatch):
    write(tmp_path, "a.txt", "closed/b.txt")
    listed = os.listdir

    def listdir(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    monkeypatch.setattr(os, "listdir", listdir)
    with pytest.raises(ValueError, match=r"closed cannot be read \(Permission denied\): allow it"):
        found(tmp_path)


TWO_HIDDEN = r"holds no file except what is left out \(2 hidden files or folders\): give files with"


def test_a_folder_of_hidden_files_alone_says_so(tmp_path):
    write(tmp_path, ".a", ".b")
    with pytest.raises(ValueError, match=TWO_HIDDEN):
        Input((str(tmp_path),)).sources()
    beside = tmp_path.with_name("beside")
    write(beside, ".other", "shown")
    with pytest.raises(ValueError, match=TWO_HIDDEN):
        Input((str(beside), str(tmp_path))).sources()


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, name):
    file = tmp_path / name
    file.write_text('{"text": "a"}\n' * 3)
    reading = Input((str(file),)).read(str(file))
    next(reading)
    with file.open("a") as stream:
        stream.write('{"text": "b"}\n')
    with pytest.raises(ValueError, match=rf"{name} changed while it was read: prepare it when"):
        list(reading)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "a.json"])
def test_other_encodings_are_named(tmp_path, encoding, name):
    (tmp_path / name).write_bytes('{"text": "words"}\n'.encode(encoding) * 20)
    source = Input((str(tmp_path),))
    (raw,) = source.read(*source.sources())
    named = "but UTF" if encoding in ("utf-16", "utf-32") else r"text \(many of its bytes are zero"
    with pytest.raises(UndecodableError, match=rf"{name} is not UTF-8 {named}"):
        text_of(raw, "text")


def test_a_few_zero_bytes_are_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a log that was cut\0\0\0 and went on\n")
    assert found(tmp_path)[0] == ["a log that was cut\0\0\0 and went on\n"]


def test_counts_add_up_to_one_sentence():
    counts = LeftOut(empty=1200, null=1) + LeftOut(null=1, not_utf8=2, invalid=3, hidden=4)
    assert str(counts) == (
        "left out: 1,200 empty, 2 null, 2 not UTF-8, 3 invalid; of files and folders 4 hidden"
    )
    assert bool(counts)
    assert not LeftOut()
    assert str(LeftOut()) == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "xml"}, r"format \(xml\) must be one of auto, text, jsonl, csv, parquet"),
        ({"quoting": "some"}, r"quoting \(some\) must be one of auto, double, none"),
    ],
)
def test_unknown_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Input((".",), **options).sources()


def test_a_field_that_no_file_has_is_told(tmp_path, caplog):
    write(tmp_path, "a.txt")
    (told,) = Input((str(tmp_path),), field="body").announce()
    assert told == "data.field or --field (body) changes nothing: every file is read as plain text"
    assert caplog.messages == [told]
    assert Input((str(tmp_path),), field="body", format="text").announce() == [told]
    assert Input((str(tmp_path),)).announce() == []
    (tmp_path / "b.jsonl").write_text('{"body": "x"}\n')
    assert Input((str(tmp_path),), field="body").announce() == []
    assert Input((str(tmp_path / "b.jsonl"),), field="body", format="text").announce() == [told]
