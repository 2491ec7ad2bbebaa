"""What lies at a path, told without opening it."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from packformer.path_kind import path_kind, too_long


def test_each_kind_has_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    Path("file").touch()
    Path("folder").mkdir()
    Path("lost").symlink_to("nowhere")
    Path("link").symlink_to("folder")
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
    told = {
        **{"file": "is a file", "folder": "is a folder", "link": "is a folder"},
        **{"pipe": "is a named pipe", "socket": "is a socket", os.devnull: "is a device"},
        **{"nowhere": "does not exist", "file/below": "does not exist"},
        **{"lost": "is a link to nowhere, which leads nowhere"},
    }
    assert {name: path_kind(Path(name)) for name in told} == told


LONG = "x" * 300
OF_LONG = (
    "the name xxxxxxxxxxxxxxxxxxxx... has 300 bytes, and a file or folder name may have 255: "
    "shorten it"
)


def error_at(path: str) -> OSError:
    with pytest.raises(OSError, match="File name too long") as found:
        os.stat(path)
    return found.value


@pytest.mark.parametrize("path", [LONG, f"{LONG}/config.json", f"runs/{LONG}/last.ckpt"])
def test_a_name_that_is_too_long_is_told_with_what_a_name_may_have(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    with pytest.raises(OSError, match="File name too long") as found:
        path_kind(Path(path))
    assert too_long(found.value) == OF_LONG


def test_bytes_count_not_characters() -> None:
    told = too_long(error_at("é" * 150))
    assert told is not None
    assert told.startswith("the name éééééééééééééééééééé... has 300 bytes, and a file or folder")


def test_a_path_of_short_names_may_be_too_long() -> None:
    assert too_long(error_at("x/" * 2500)) == (
        "the path x/x/x/x/x/x/x/x/x/x/... has 5,000 bytes, and a path may have 4,095: shorten it"
    )


def test_a_file_system_may_take_less() -> None:
    error = OSError(errno.ENAMETOOLONG, "File name too long", "a/b")
    assert too_long(error) == "a path is longer than its file system takes (a/b): shorten it"


def test_the_longer_of_two_paths_is_told() -> None:
    error = OSError(errno.ENAMETOOLONG, "File name too long", "a", None, LONG)
    assert too_long(error) == OF_LONG


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ([("seed", "3"), ("output_dir", LONG)], f"output_dir: {OF_LONG}"),
        ([("output_dir", f"'runs/{LONG}/new'")], f"output_dir: {OF_LONG}"),
        ([("name", LONG[:200])], f"name: {OF_LONG}"),  # to which more was added
        ([("output_dir", "runs"), ("seed", "x"), ("resume", "")], OF_LONG),
    ],
)
def test_the_setting_that_gave_a_name_is_told(settings: list[tuple[str, str]], told: str) -> None:
    assert too_long(error_at(LONG), settings) == told


@pytest.mark.parametrize(
    "error",
    [
        ValueError(LONG),
        FileNotFoundError(errno.ENOENT, "No such file", LONG),
        OSError(errno.ENAMETOOLONG, "File name too long"),  # of what, its message says
    ],
)
def test_other_errors_are_not_about_a_long_path(error: Exception) -> None:
    assert too_long(error) is None
