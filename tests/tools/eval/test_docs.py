"""The section on scoring in docs/use.md works as it stands."""

import re
import shlex
from pathlib import Path

import pytest

from packformer.cli import main

pytestmark = pytest.mark.usefixtures("blank")

PAGE = (Path(__file__).parents[3] / "docs" / "use.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## Score a run")[2].partition("\n## ")[0]


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", SECTION, flags=re.DOTALL)


def test_every_command_and_the_script_run(runs, texts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "RUN_FOLDER").symlink_to(runs[0])
    (tmp_path / "OTHER_RUN").symlink_to(runs[1])  # with learned positions, to 64
    tokenizer = ["--tokenizer", "RUN_FOLDER/tokenizer.json", "--validation-fraction", "0.2"]
    main(["prepare", str(texts), "--output", "my_corpus", *tokenizer])
    (tmp_path / "my_folder").symlink_to(texts)
    (tmp_path / "my_texts.jsonl").write_text('{"text": "word1 word2"}\n')
    (commands,) = blocks("sh")
    assert len(commands.splitlines()) == 3
    for command, folder in zip(commands.splitlines(), ("eval", "eval-2", "compared"), strict=True):
        main(shlex.split(command)[1:])
        assert (tmp_path / folder / "eval.csv").is_file()
    (script,) = blocks("python")
    names: dict = {}
    exec(compile(script, "docs/use.md", "exec"), names)
    assert names["found"].documents == 2
