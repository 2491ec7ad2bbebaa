"""What was meant by a name that does not exist."""

from __future__ import annotations

import difflib
import random
import string

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from packformer.run.nearest import nearest


def _keys(node: DictConfig, place: str = "") -> list[str]:
    found = []
    for name in node:
        found.append(f"{place}{name}")
        if isinstance(node._get_node(name), DictConfig):
            found += _keys(node[name], f"{place}{name}.")
    return found


@pytest.fixture(scope="module")
def keys() -> list[str]:
    with initialize_config_module("packformer.conf", version_base="1.3"):
        return _keys(compose("config", ["+experiment=recall"]))


def _slip(name: str, draw: random.Random) -> str:
    """``name`` with a letter left out, put in, replaced, or swapped with the next."""
    place, letter = draw.randrange(len(name)), draw.choice(string.ascii_lowercase + "_")
    before, at, after = name[:place], name[place], name[place + 1 :]
    return before + draw.choice(
        (after, letter + at + after, letter + after, after[:1] + at + after[1:])
    )


def _ratio(name: str, other: str) -> float:
    return difflib.SequenceMatcher(None, name, other).ratio()


def test_a_slip_in_any_name_leads_back_to_it(keys: list[str]) -> None:
    draw = random.Random(0)
    assert len(keys) > 80
    for name in keys:
        for slip in {_slip(name, draw) for _ in range(10)} - {*keys, ""}:
            found = nearest(slip, keys)
            assert found is not None, slip
            assert found == name or _ratio(slip, found) >= _ratio(slip, name), (slip, found)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("optimizer.lr", "optimizer.learning_rate"),
        ("lr", "optimizer.learning_rate"),
        ("optimizer.wd", "optimizer.weight_decay"),
        ("max_steps", "trainer.max_steps"),
        ("model.learning_rate", "optimizer.learning_rate"),
        ("Model.Width", "model.width"),
        ("optimiser", "optimizer"),
        ("trainer.grad_accumulation", None),
        ("zzz", None),
        ("x", None),
    ],
)
def test_other_words_for_a_name(keys: list[str], name: str, meant: str | None) -> None:
    assert nearest(name, keys) == meant
