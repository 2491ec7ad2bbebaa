"""Every command of docs/data.md works."""

from __future__ import annotations

import io
import json
import math
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from packformer.cli import main
from packformer.corpus.tokenizer import train_bpe

DATA = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
BLOCKS = [
    [line.partition(" #")[0].strip() for line in block.replace("\\\n", " ").splitlines()]
    for block in re.findall(r"```sh\n(.*?)```", DATA.partition("## Measured")[0], flags=re.DOTALL)
]
TEXTS = [f"document {n}: " + "packed rows of tokens " * (n % 7 + 1) for n in range(120)]


@pytest.fixture
def _input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of the names that the page uses, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    (tmp_path / "my_texts.jsonl").write_text(lines)
    (tmp_path / "my_table.csv").write_text("n,body\n" + "".join(f"1,{t}\n" for t in TEXTS))
    (tmp_path / "my_folder").mkdir()
    (tmp_path / "my_folder" / "a.txt").write_text("one more document\n" * 50)
    (tmp_path / "my_folder" / "b.txt").write_text("another document\n" * 50)
    train_bpe(TEXTS, 400).save(str(tmp_path / "tokenizer.json"))
    stdin = io.TextIOWrapper(io.BytesIO(lines.encode()))
    monkeypatch.setattr("sys.stdin", stdin)


@pytest.mark.usefixtures("_input")
@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_commands_on_data_run(train: Callable, number: int) -> None:
    commands = [shlex.split(command.rpartition("| ")[2]) for command in BLOCKS[number]]
    if not any(arguments[1] == "prepare" for arguments in commands):
        options = ["--tokenizer", "tokenizer.json", "--validation-fraction", "0.2"]
        for name in ("corpus", "other_corpus"):
            main(["prepare", "my_texts.jsonl", "--output", name, *options])
    for place, arguments in enumerate(commands):
        if arguments[:3] == ["python", "-m", "train"]:
            done = train(*arguments[3:], "+debug=fast")
            assert done.code == 0, done.err
            (summary,) = Path().glob("runs/*/summary.json")
            assert math.isfinite(json.loads(summary.read_text())["val/loss"])
            shutil.rmtree("runs")
            continue
        assert arguments[0] == "packformer"
        if "--tokenizer" in arguments or "--skip-invalid" in arguments:  # another corpus each
            arguments[arguments.index("corpus")] = f"corpus{place}"
        main(arguments[1:])
        if arguments[1] == "prepare":
            _assert_prepared(Path(arguments[arguments.index("--output") + 1]))


def _assert_prepared(folder: Path) -> None:
    """All documents of the inputs above are in the shards."""
    manifest = json.loads((folder / "manifest.json").read_text())
    splits = [*manifest["train"], *manifest["validation"]]
    assert all((folder / shard["file"]).is_file() for shard in splits)
    # Texts and a folder; texts; a folder, of whose last document a part is held out.
    assert sum(shard["documents"] for shard in splits) in (122, 120, 3)
    assert manifest["validation"], "some are held out"


def test_all_commands_are_tried() -> None:
    assert [len(block) for block in BLOCKS] == [5, 3, 1]
