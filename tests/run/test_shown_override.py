"""What is printed to be pasted is read back as it was."""

import random
import shlex
import shutil
import subprocess

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
    signs = [*"ab/.\\'\"$ {}[](),=:#~é0-", "${", "\\${"]
    printable = [chr(code) for code in range(32, 0x3000) if chr(code).isprintable()]
    for number in range(600):
        pool = signs if number % 2 else [*signs * 20, *printable]
        name = "".join(rng.choices(pool, k=rng.randint(1, 12)))
        assert read_back(shown_override("data.path", name)) == name


def test_a_list_of_names_is_read_back_by_a_run():
    shown = shown_override("data.path", NAMES)
    with initialize_config_module("packformer.conf", version_base=None):
        config = compose("config", overrides=["data=text", *shlex.split(shown)])
    assert list(config.data.path) == NAMES


def test_what_needs_no_quotes_has_none():
    assert shown_override("data.path", "/data/my-corpus/v1") == "data.path=/data/my-corpus/v1"
    assert shown_override("data.path", "a b") == "'data.path=\"a b\"'"


@pytest.mark.platform
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_a_shell_hands_on_what_was_printed():
    words = " ".join(shown_override("data.path", name) for name in NAMES)
    command = ["bash", "-c", f"printf '%s\\0' {words}"]
    done = subprocess.run(command, capture_output=True, check=True)
    arguments = done.stdout.decode().split("\0")[:-1]
    assert [read_back(shlex.quote(argument)) for argument in arguments] == NAMES
