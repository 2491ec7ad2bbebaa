"""The packformer command."""

import argparse
import re
import subprocess
import sys

import pytest

import packformer
from packformer.cli import _parser, main

MODULES = {
    "doctor": "doctor",
    "plan": "plan",
    "match": "match",
    "prepare": "prepare",
    "inspect": "inspect",
    "generate": "generate",
    "eval": "eval",
    "lm-eval": "lm_eval",
    "export": "export",
    "import": "import_folder",
    "study": "study",
    "report": "report",
    "bench": "bench",
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Verdicts of planted kernels must not outlive a test."""
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("bench loader --rows 0", "--rows (0) must be a whole number from 1 up"),
        ("bench attention --device cpu --heads 3 --kv-heads 2", "heads (3) must be divisible by"),
        ("doctor --head-dim 0", "--head-dim (0) must be a whole number from 1 up"),
    ],
)
def test_bad_input_is_one_line(command, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main(command.split())
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("prepare text.txt --output {}", "--output: "),
        ("prepare text.txt --output new --tokenizer={}", "--tokenizer: "),
        ("prepare {} --output new", ""),
        ("generate {} --prompts text.txt", ""),
        ("inspect {}", ""),
        ("import {}", ""),
    ],
)
def test_a_name_that_is_too_long_is_told_with_its_option(
    command, option, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("a text")
    with pytest.raises(SystemExit) as end:
        main(command.format("x" * 300).split())
    assert end.value.code == 1
    assert capsys.readouterr().err == (
        f"error: {option}the name xxxxxxxxxxxxxxxxxxxx... has 300 bytes, and a file or folder name "
        "may have 255: shorten it\n"
    )
    assert [file.name for file in tmp_path.iterdir() if file.name != "cache"] == ["text.txt"]


@pytest.mark.parametrize(
    ("given", "meant"), [("instpect", "inspect"), ("trian", "train"), ("lmeval", "lm-eval")]
)
def test_a_mistyped_command_is_told_with_the_nearest(given, meant, capsys):
    with pytest.raises(SystemExit) as end:
        main([given, "x"])
    assert end.value.code == 1
    error = f"error: there is no command {given}: did you mean {meant}?\n"
    assert capsys.readouterr().err == error


def test_without_a_command_all_are_listed(capsys):
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "usage: packformer" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["bench", "unknown", "inspect x --row y"])
def test_what_is_wrong_is_one_line(command, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(command.split())
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.endswith(" --help shows all\n")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [["doctor", "more"], ["bench", "step", "gqa", "--nothing-like-it", "3"], ["plan", "a", "b"]],
)
def test_what_is_not_known_is_refused(capsys, arguments):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "unrecognized arguments: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "unknown", "meant"),
    [
        ("study +experiment=gqa,mha --seed 3", "--seed", "--seeds"),
        ("study --seed=3 +experiment=gqa,mha", "--seed", "--seeds"),
        ("report runs --ref gqa", "--ref", "--reference"),
        ("match parameters --refer gqa +experiment=gqa,mha", "--refer", "--reference"),
        ("bench step gqa --step 3", "--step", "--steps"),
        ("bench step gqa --stepz 3", "--stepz", "--steps"),
    ],
)
def test_the_beginning_of_an_option_is_not_taken_for_it(capsys, command, unknown, meant):
    with pytest.raises(SystemExit) as end:
        main(command.split())
    assert end.value.code == 2
    error = f"error: there is no option {unknown}: did you mean {meant}?; packformer "
    assert capsys.readouterr().err == f"{error}{command.split()[0]} --help shows all\n"


def test_no_command_takes_the_beginning_of_an_option():
    def of(parser):
        yield parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for inner in action.choices.values():
                    yield from of(inner)

    parsers = list(of(_parser()))
    assert len(parsers) > len(MODULES) + 1
    assert not [parser.prog for parser in parsers if parser.allow_abbrev]


def test_help_lists_every_command_and_imports_no_work_of_any():
    heavy = ("torch", "numpy", "rich", "packformer.run", "packformer.attention", "packformer.data")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({heavy})); "
        "from packformer.cli import main; main(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    listed = dict(re.findall(r"^    ([\w-]+) +(\S.*)$", done.stdout, flags=re.MULTILINE))
    assert list(listed) == ["train", *MODULES]


@pytest.mark.parametrize("command", MODULES)
def test_only_the_command_asked_for_is_imported(command):
    others = [module for name, module in MODULES.items() if name != command]
    blocked = [f"packformer.tools.{other}" for other in others]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked})); "
        f"from packformer.cli import main; main(['{command}', '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"usage: packformer {command} " in done.stdout


def test_help_shows_defaults_once_and_only_what_is_one(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["study", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "seeds from 0 (default: 3)" in told
    assert "compared with (default: the first) --hold-out" in told
    assert "None" not in told


def test_it_tells_its_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"packformer {packformer.__version__}\n"
