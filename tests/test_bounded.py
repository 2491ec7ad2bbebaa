"""Files that may come from anyone are read with bounds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from packformer.bounded import parse_json, read_bounded, read_json, read_yaml

_BOMB = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "is no YAML: .* more than 64 levels deep"),
        ("a: " + "{a: " * 100 + "1" + "}" * 100, "more than 64 levels deep"),
        (_BOMB, "alias"),
        ("a: !!python/object/apply:os.system [id]", "could not determine a constructor"),
        ("a: [1", r"line \d, is no YAML"),
        ("a: '" + "x" * 2**20 + "'", "larger than the 1,048,576 bytes"),
        ("a: \x00", "is no YAML"),
        ("a: " + "9" * 5000, "4300"),
    ],
    ids=["open", "deep", "bomb", "object", "cut", "large", "zero", "digits"],
)
def test_yaml_that_is_no_configuration_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=reason):
        read_yaml(file)


def test_yaml_is_read_as_plain_types(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("a: {b: [1, 2.5, null, true, 'x']}")
    assert read_yaml(file) == {"a": {"b": [1, 2.5, None, True, "x"]}}


def test_json_that_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 200_000)
    file = tmp_path / "a.json"
    file.write_text('{"a": 1}')
    assert read_json(file) == {"a": 1}
    with pytest.raises(ValueError, match="larger than the 7 bytes"):
        read_json(file, 7)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is no file"):
        read_bounded(tmp_path / "pipe", 1)
    with pytest.raises(ValueError, match="none does not exist"):
        read_bounded(tmp_path / "none", 1)
