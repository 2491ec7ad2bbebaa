"""The script that a shell evaluates completes commands, options, groups, choices and settings."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from packformer.cli import main
from packformer.completion import script

_TRY = """
eval "$(packformer train -sc install=bash)"
completer=$(complete -p packformer | sed 's/.*-F \\([^ ]*\\).*/\\1/')
while IFS= read -r line; do
    COMP_LINE=$line COMP_POINT=${#line} COMP_TYPE=9
    read -ra COMP_WORDS <<< "$line"
    [[ $line == *" " ]] && COMP_WORDS+=("")
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    COMPREPLY=()
    $completer packformer
    echo "${COMPREPLY[@]}"
done
"""
# What is typed, and what must be offered; bash itself keeps what stands before the last "=".
_TYPED = {
    "packformer ": {"train", "prepare", "bench"},
    "packformer pr": {"prepare"},
    "packformer bench st": {"step"},
    "packformer prepare --format ": {"auto", "jsonl"},
    "packformer train ": {"attention=", "attention.", "experiment=", "--multirun"},
    "packformer train +exp": {"+experiment="},
    "packformer train +experiment=g": {"gqa", "gpt_124m"},
    "packformer train -m attention=": {"mha", "gqa", "mqa"},
    "packformer train +experiment=gqa trainer.max": {"trainer.max_steps="},
    "packformer train data=text data.pa": {"data.path="},
    "packformer train data=text data.path=./my": {"./my_corpus"},
    "packformer train --cfg ": {"job"},
}


@pytest.mark.platform
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_with_the_printed_script(tmp_path: Path) -> None:
    command = tmp_path / "packformer"
    command.write_text(f"#!{sys.executable}\nfrom packformer.cli import main\nmain()\n")
    command.chmod(0o755)
    (tmp_path / "my_corpus").mkdir()
    done = subprocess.run(
        ["bash", "-c", _TRY],
        input="".join(f"{line}\n" for line in _TYPED),
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    offered = [set(line.split()) for line in done.stdout.splitlines()]
    assert len(offered) == len(_TYPED), done.stderr
    for line, wanted, found in zip(_TYPED, _TYPED.values(), offered, strict=True):
        assert wanted <= found, line


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize("start", [[], ["train"]])
@pytest.mark.parametrize("flag", ["-sc", "--shell-completion"])
def test_the_script_is_printed_and_undone(
    capsys: pytest.CaptureFixture[str], start: list[str], flag: str, shell: str
) -> None:
    main([*start, flag, f"install={shell}"])
    assert "packformer" in capsys.readouterr().out
    main([*start, flag, f"uninstall={shell}"])
    assert capsys.readouterr().out.strip().endswith("packformer")


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "-sc", "install=csh"])
    assert "-sc install=csh: give install=SHELL, one of bash, zsh, fish" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["-sc"], ["-sc", "query=bash"], ["train"], ["-m", "a=b"]]
)
def test_other_arguments_ask_for_no_script(arguments: list[str]) -> None:
    assert script(arguments) is None
