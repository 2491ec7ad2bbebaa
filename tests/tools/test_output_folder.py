"""``--output``: made before the work, and named where it cannot be."""

import os
from pathlib import Path

import pytest

from packformer.tools.output_folder import new_folder, new_output_file, output_folder


def test_what_nothing_came_into_is_removed(tmp_path):
    with output_folder(tmp_path / "a" / "used"):
        (tmp_path / "a" / "used" / "file").touch()
    with pytest.raises(KeyError), output_folder(tmp_path / "unused"):
        raise KeyError
    with pytest.raises(KeyError), output_folder(tmp_path / "one" / "in" / "another"):
        raise KeyError
    with output_folder(tmp_path / "a"):
        pass
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["a", "file", "used"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("file", r"--output \(.*file\) must be a folder"),
        ("file/x", r"--output \(.*x\) cannot be made \(Not a directory\): name a folder in a"),
    ],
)
def test_a_folder_that_cannot_be_made_is_told_by_its_argument(tmp_path, name, message):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=message), output_folder(tmp_path / name):
        pass


def test_a_folder_of_the_users_own_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with output_folder(Path("~/new")) as folder:
        assert folder == tmp_path / "new"
        (folder / "file").touch()
    assert new_output_file("~/new/other") == tmp_path / "new" / "other"


def test_a_place_that_is_read_only_is_told_by_its_argument(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda place, how: False)
    told = rf"--output \({tmp_path}.*\) cannot be written, as {tmp_path} is read-only for you: name"
    with pytest.raises(ValueError, match=told), output_folder(tmp_path):
        pytest.fail("the work began")
    with pytest.raises(ValueError, match=told):
        new_output_file(str(tmp_path / "x.jsonl"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("file", r"--output \(.*file\) exists: name another file, or remove it"),
        ("file/x", r"--output \(.*x\) lies in no folder: make .*file first"),
        ("new/x", r"--output \(.*x\) lies in no folder: make .*new first"),
        (".", r"--output \(.*\) exists: name another file, or remove it"),
    ],
)
def test_a_file_that_cannot_be_made_is_told_by_its_argument(tmp_path, name, message):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=message):
        new_output_file(str(tmp_path / name))


def test_a_folder_that_is_there_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert new_folder("plan") == Path("plan")
    for name in ("plan", "plan-2"):
        Path(name).mkdir()
    assert new_folder("plan") == Path("plan-3")


def test_without_a_folder_a_new_one_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("step", "step-2"):
        with output_folder(None, "step") as folder:
            assert folder == Path(name)
            (folder / "step.csv").touch()
