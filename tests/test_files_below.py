"""Files are found while other processes change the folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from packformer.files_below import files_below


def test_it_finds_every_file_of_the_name_but_through_no_link(tmp_path: Path) -> None:
    wanted = [tmp_path / "a.yaml", tmp_path / "run" / "a.yaml", tmp_path / "x" / "y" / "a.yaml"]
    for file in (*wanted, tmp_path / "run" / "b.yaml", tmp_path / "run" / "aa.yaml"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "z" / "a.yaml").mkdir(parents=True)  # a folder of that name
    (tmp_path / "link").symlink_to(tmp_path / "run")
    assert sorted(files_below(tmp_path, "a.yaml")) == wanted
    assert files_below(tmp_path / "nowhere", "a.yaml") == []


def test_a_folder_may_vanish_before_it_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, gone = tmp_path / "left" / "a.yaml", tmp_path / "gone"
    left.parent.mkdir()
    left.touch()
    gone.mkdir()
    listed, scan = [], os.scandir

    def vanishing(place: Any) -> Any:
        if Path(place) == gone:
            gone.rmdir()
            listed.append(gone)
        return scan(place)

    monkeypatch.setattr(os, "scandir", vanishing)
    assert files_below(tmp_path, "a.yaml") == [left]
    assert listed == [gone]
