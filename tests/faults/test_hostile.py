"""Hostile files run nothing, lead nowhere, end in one line: some of those that are counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from .hostile import Case, Material, cases
from .try_hostile import make_material, tried

_EVERY = 9
_SOME = cases()[::_EVERY]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return make_material(tmp_path_factory.mktemp("material"))


@pytest.mark.parametrize("case", _SOME, ids=lambda case: case.name)
def test_a_hostile_file_is_refused_or_harmless(
    case: Case, material: Material, tmp_path: Path
) -> None:
    ended = tried(case, material, tmp_path)
    assert ended.outcome in ("refused", "harmless"), ended


def test_there_are_many_and_each_has_a_name_of_its_own() -> None:
    names = [case.name for case in cases()]
    assert len(set(names)) == len(names) >= 80
