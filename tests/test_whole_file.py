"""Files are replaced in one step, and what kills leave of them is removed."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from packformer.whole_file import cannot_write, remove_unfinished, replace_text, replacing


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    replace_text(file, "former")
    with pytest.raises(OSError, match=r"cannot write .*a\.txt \(no room\): .* MiB left$"):
        _fail_in_the_middle(file)
    assert file.read_text() == "former"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, r"\(No space left on device\): .* MiB left$"),
        (errno.EDQUOT, r"\(Disk quota exceeded\): .* MiB left$"),
        (errno.EROFS, r"\(Read-only file system\): name a place that you may write to$"),
        (errno.ENAMETOOLONG, r"\(File name too long\): shorten its name$"),
        (errno.ENOTDIR, r"\(Not a directory\)$"),
    ],
)
def test_room_is_told_where_it_may_be_the_reason(number: int, message: str, tmp_path: Path) -> None:
    told = cannot_write(tmp_path / "a.txt", OSError(number, os.strerror(number)))
    assert re.search(message, str(told))
    assert told.errno == number


def _fail_in_the_middle(file: Path) -> None:
    with replacing(file) as unfinished:
        unfinished.write_text("half")
        raise OSError("no room")


def test_the_content_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("sync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *of: (events.append("rename"), replace(*of)))
    replace_text(tmp_path / "a.txt", "new")
    assert events == ["sync", "rename", "sync"], "the second one is of the folder"


def test_only_what_kills_leave_is_removed(tmp_path: Path) -> None:
    for name in (".last.ckpt.123", ".config.yaml.7", ".lock", "last.ckpt", ".hidden.txt"):
        (tmp_path / name).touch()
    (tmp_path / ".folder.5").mkdir()
    remove_unfinished(tmp_path)
    assert names(tmp_path) == [".folder.5", ".hidden.txt", ".lock", "last.ckpt"]
    remove_unfinished(tmp_path / "absent")
