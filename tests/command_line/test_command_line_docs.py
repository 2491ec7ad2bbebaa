"""What docs/command_line.md says is so."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from packformer import cli
from packformer.run.trainer_settings import INSTEAD, PASSED_ON

PAGE = (Path(__file__).parents[2] / "docs" / "command_line.md").read_text(encoding="utf-8")
COMMANDS = [
    line.partition("  #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    for line in block.splitlines()
]


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_run(command, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = shlex.split(command)
    if not {"--cfg", "-sc"} & set(arguments):
        arguments += ["+debug=fast", "data=copying", "trainer.max_steps=1"]
    monkeypatch.setattr("sys.argv", arguments)
    cli.main()
    assert capsys.readouterr().out


def test_the_example_of_a_refused_name_is_so(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    command, message = re.findall(r"    \$ (.*)\n    (.*)\n", PAGE)[0]
    monkeypatch.setattr("sys.argv", shlex.split(command))
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().err == f"{message}\n"


def test_the_arguments_of_the_trainer_are_those_it_names() -> None:
    rows = re.findall(
        r"^\| (`.*?) \| .* \|$", PAGE.partition("## The same numbers")[0], flags=re.MULTILINE
    )
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named
    assert named <= INSTEAD.keys()
    added = re.findall(r"adds (.*?) \(`simple`", PAGE, flags=re.DOTALL)[0]
    in_files = {"accelerator", "devices", "num_nodes", "strategy", "precision", "max_steps"}
    in_files |= {"accumulate_grad_batches", "log_every_n_steps"}
    assert set(re.findall(r"`(\w+)`", added)) == PASSED_ON - in_files
