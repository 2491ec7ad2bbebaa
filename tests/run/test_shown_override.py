"""What is printed to be pasted is read back as it was."""

import random
import shlex

import pytest
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from packformer.run.shown_override import shown_override

NAMES = [
    "corpus",
    "/data/my-corpus_2/v1.0",
    "../corpus",
    "two words",
    " leading and trailing ",
    "a=b",
    "a,b",
    "[a]",
    "{a: b}",
    "(a)",
    "#a",
    "a#b # c",
    "it's",
    'the "best"',
    "back\\slash",
    "back\\\\",
    "trailing\\",
    "\\'\\\"\\\\'",
    "$HOME",
    "`ls`",
    "!a",
    "*?",
    "~",
    "~/a",
    "-",
    "--a",
    "%d",
    "&;|<>",
    "a\nb",
    "a\tb",
    "größe",
    "東京/語料",
    "\U0001f600",
    "null",
    "True",
    "nan",
    "-inf",
    "2024",
    "1e3",
    ".5",
    "1_000",
    "0x10",
    "${a}",
    "\\${a}",
    "\\\\${a}",
    "${oc.env:HOME}\\",
    "${",
    "$${a}",
    "a:b",
    "a@b",
    "choice(a,b)",
    "",
]


def read_back(shown):
    (override,) = shlex.split(shown)
    value = OverridesParser.create().parse_override(override).value()
    return OmegaConf.create({"path": value}).path


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_read_back(name):
    assert read_back(shown_override("data.path", name)) == name


def test_random_names_are_read_back():
    rng = random.Random(0)
    signs = "ab/.\\'\"$ {}[](),=:#~é0-"
    for _ in range(100):
        name = "".join(rng.choices(signs, k=rng.randint(1, 9)))
        assert read_back(shown_override("data.path", name)) == name


def test_a_list_of_names_is_read_back_by_a_run():
    shown = shown_override("data.path", NAMES)
    with initialize_config_module("packformer.conf", version_base=None):
        config = compose("config", overrides=["data=text", *shlex.split(shown)])
    assert list(config.data.path) == NAMES


def test_what_needs_no_quotes_has_none():
    assert shown_override("data.path", "/data/my-corpus/v1") == "data.path=/data/my-corpus/v1"
    assert shown_override("data.path", "a b") == "'data.path=\"a b\"'"
