"""The scripts of README and docs/use.md do what they say."""

import re
from pathlib import Path

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
