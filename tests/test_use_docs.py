"""The scripts of README and docs/use.md do what they say."""

import re
import shlex
import shutil
import sysconfig
from pathlib import Path

import pytest

from packformer.cli import main

ROOT = Path(__file__).parents[1]


def test_the_script_that_generates(train, small, tmp_path, capsys):
    page = (ROOT / "docs" / "use.md").read_text(encoding="utf-8")
    section = page.partition("## Generate")[2].partition("\n## ")[0]
    (script,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    assert script in (ROOT / "README.md").read_text(encoding="utf-8")
    done = train("+experiment=gqa", *small)
    assert done.code == 0, done.err
    (folder,) = (tmp_path / "runs").iterdir()
    capsys.readouterr()
    names: dict = {}
    exec(compile(script.replace("RUN_FOLDER", str(folder)), "docs/use.md", "exec"), names)
    texts = capsys.readouterr().out
    new = [names["tokenizer"].decode(names["tokens"])]
    assert texts.endswith(new[-1] + "\n")
    assert len(names["tokens"]) == 50


def test_the_commands_that_export_and_start_from_weights(
    train, small, corpus, tmp_path, monkeypatch
):
    pytest.importorskip("transformers")
    library = tmp_path / "library"  # all of Python's takes ten seconds to encode
    library.mkdir()
    for file in corpus.iterdir():
        shutil.copy(file, library / f"{file.stem}.py")
    paths = {**sysconfig.get_paths(), "stdlib": str(library)}
    monkeypatch.setattr(sysconfig, "get_paths", lambda: paths)
    page = (ROOT / "docs" / "use.md").read_text(encoding="utf-8").replace("\\\n", " ")
    sections = page.partition("## Export")[2]
    lines = "".join(re.findall(r"```sh\n(.*?)```", sections, flags=re.DOTALL)).splitlines()
    assert train("+experiment=gqa", *small).code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    for line in lines:
        words = shlex.split(line, comments=True)
        words = [word.replace("RUN_FOLDER", str(folder)) for word in words]
        if words[0] == "packformer":
            if "--no-verify" in words:
                shutil.rmtree("my_model")
            main(words[1:])
            continue
        given = [word.replace("my_texts", str(corpus)) for word in words[3:]]
        done = train(*given, "+debug=fast")
        assert done.code == 0, done.err
    assert len(lines) == 6
