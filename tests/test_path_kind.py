"""What lies at a path, told without opening it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from packformer.path_kind import path_kind


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
