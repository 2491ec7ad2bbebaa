"""Parts of the user's that a configuration names, and files that are no YAML."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import packformer
from packformer.run.targets import imported

PARTS = "from packformer.nn import Rotary\n\n\nclass Mine(Rotary):\n    pass\n"
SETTING = "position._target_ (my_own_parts.Mine) cannot be imported: "
GONE = "No module named 'my_own_parts'; set PYTHONPATH to the folder that my_own_parts lies in"


def test_a_run_with_a_class_of_the_users_is_opened_where_the_class_is_found(
    train: Callable, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    own = tmp_path / "my_own_parts.py"
    own.write_text(PARTS)
    where = ("position._target_=my_own_parts.Mine", f"hydra.run.dir={tmp_path / 'run'}")
    done = train(*small, *where)
    assert done.code == 0, done.err
    assert type(packformer.load(tmp_path / "run").model.positions[0]).__name__ == "Mine"
    sys.modules.pop("my_own_parts")
    own.unlink()
    with pytest.raises(ValueError, match="^" + re.escape(SETTING + GONE) + "$"):
        packformer.load(tmp_path / "run")
    done = train(*small, *where)
    assert done.code == 1
    assert SETTING + GONE in done.err


def test_a_class_that_its_module_lacks_needs_no_other_path() -> None:
    with pytest.raises(ValueError, match=r"^a\._target_ \(packformer\.nn\.No\) .*attribute 'No'$"):
        imported("a", "packformer.nn.No")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: b\n  lr: [0.1\n", "line 2, is no YAML: mapping values are not allowed here"),
        ("\tlr: 1", "line 1, is no YAML: found character '\\t' that cannot start any token"),
        ('a: "x\n', "line 2, is no YAML: found unexpected end of stream"),
    ],
)
def test_a_file_that_is_no_yaml_is_named_in_one_line(
    text: str, problem: str, train: Callable, tmp_path: Path
) -> None:
    file = tmp_path / "mine" / "optimizer" / "bad.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    done = train("--config-dir", str(tmp_path / "mine"), "optimizer=bad")
    assert done.code == 1
    assert done.err.splitlines()[-1] == f"error: {file}, {problem}"
