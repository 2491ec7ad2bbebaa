"""What is printed can be pasted: every name comes through a shell and Hydra's grammar as it is."""

from __future__ import annotations

import random
import shlex
import shutil
import subprocess

import pytest
from omegaconf import OmegaConf

from packformer.run.overrides import refuse_altered_text
from packformer.run.quoting import parse, shown_override

_PRINTABLE = [chr(code) for code in range(32, 0x3000) if chr(code).isprintable()]
_SPECIAL = [
    *"=,[]{}()#$\\'\"~:;&|<>*?!`%^+-@/. \t",
    "${",
    "}",
    "\\${",
    "${oc.env:HOME}",
    "1e3",
    "null",
]

_WORDS = ("null", "true", "false")


def _names(number: int) -> list[str]:
    draw = random.Random(number)
    pools = (_SPECIAL, _PRINTABLE, "ab1_")
    return [
        "".join(draw.choice(draw.choices(pools, (3, 1, 2))[0]) for _ in range(draw.randint(1, 12)))
        for _ in range(100)
    ]


def _setting(argument: str) -> str:
    """The value that a setting gets, as OmegaConf resolves it."""
    override = parse(argument)
    assert override is not None, argument
    assert not override.is_sweep_override(), argument
    return OmegaConf.create({"value": override.value()}).value


@pytest.mark.parametrize("number", range(10))
def test_every_name_comes_out_as_it_is(number: int) -> None:
    for name in _names(number):
        (argument,) = shlex.split(shown_override("data.path", name))
        assert _setting(argument) == name


@pytest.mark.parametrize("number", range(10))
def test_a_name_works_as_typed_or_the_message_shows_how(number: int) -> None:
    for name in _names(100 + number):
        if name.startswith(("'", '"', "[")) or "${" in name or "," in name or name in _WORDS:
            continue  # deliberate: quotes, a list, a reference, a sweep, no value
        typed = f"data.path={name}"
        try:
            refuse_altered_text([typed])
        except ValueError as error:
            (typed,) = shlex.split(str(error).rpartition(": write ")[2])
        assert str(_setting(typed)) == name


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("corpus", "data.path=corpus"),
        ("../a-b_c.jsonl", "data.path=../a-b_c.jsonl"),
        ("2024", "'data.path=\"2024\"'"),
        ("a=b.txt", "'data.path=\"a=b.txt\"'"),
        ("a,b", "'data.path=\"a,b\"'"),
        ("a[1].txt", "'data.path=\"a[1].txt\"'"),
        ("#1", "'data.path=\"#1\"'"),
        ("Übung", "'data.path=\"Übung\"'"),
        ("語料", "'data.path=\"語料\"'"),
        ("two words", "'data.path=two words'"),
        ("it's", "'data.path=\"it'\"'\"'s\"'"),
        ("${x}", "'data.path=\"\\${x}\"'"),
        ("???", "'data.path=./???'"),
        ("", "data.path="),
    ],
)
def test_quotes_stand_where_they_are_needed(name: str, shown: str) -> None:
    assert shown_override("data.path", name) == shown


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_a_shell_hands_on_what_was_printed() -> None:
    names = [*_names(7)[:40], "a b", "a'b", 'a"b', "$HOME", "`id`", "!x", "*", "a\\b"]
    words = " ".join(shown_override("data.path", name) for name in names)
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {words}"], capture_output=True, check=True
    )
    arguments = done.stdout.decode().split("\0")[:-1]
    assert [_setting(argument) for argument in arguments] == names
