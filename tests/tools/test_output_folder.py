"""``--output``: made before the work, and named where it cannot be."""

import pytest

from packformer.tools.output_folder import output_folder


def test_what_nothing_came_into_is_removed(tmp_path):
    with output_folder(tmp_path / "a" / "used"):
        (tmp_path / "a" / "used" / "file").touch()
    with pytest.raises(KeyError), output_folder(tmp_path / "unused"):
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
