"""Every wrong argument of a command is one line that names it, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from packformer import GPT, Rotary
from packformer.cli import main
from packformer.corpus import Input, Preparation, prepare
from packformer.corpus.tokenizer import train_bpe
from packformer.huggingface import export

WRONG = {
    "prepare nowhere --output new": "nowhere does not exist: give files, folders",
    "prepare empty --output new": "empty holds no file: give files with text",
    "prepare texts": "the following arguments are required: --output",
    "prepare texts --output file": "--output (file) must be a folder",
    "prepare texts --output file/x": "--output (file/x) cannot be made (Not a directory): name",
    "prepare texts --output new --vocab-size 5": "--vocab-size (5) must be a whole number from 258",
    "prepare texts --output new --vocab-size 1000000000": "--vocab-size (1000000000) must be at",
    "prepare texts --output new --vocab-size=x": "argument --vocab-size: invalid int value: 'x'",
    "prepare texts --output new --workers 0": "--workers (0) must be a whole number from 1 up",
    "prepare texts --output new --workers 5000": "--workers (5000) must be at most 4,096",
    "prepare texts --output new --shard-mib 0": "--shard-mib (0) must be a whole number from 1",
    "prepare texts --output new --sample-mib -3": "--sample-mib (-3) must be a whole number from",
    "prepare texts --output new --validation-fraction 1.5": "--validation-fraction (1.5) must be",
    "prepare texts --output new --validation-fraction nan": "--validation-fraction (nan) must be",
    "prepare texts --output new --format xml": "argument --format: invalid choice: 'xml' (choose",
    "prepare texts --output new --tokenizer none.json": "tokenizer none.json does not exist: give",
    "prepare texts --output new --tokenizer file": "file is no tokenizer.json",
    "prepare texts --output corpus": "corpus holds a corpus made from other files or with other",
    "prepare corpus --output new": "corpus is a prepared corpus, not text: use data=shards",
    "prepare hf: --output new": "hf: names no data set: write hf:NAME",
    "prepare texts --output new --skip-invald": "no option --skip-invald: did you mean --skip-inv",
    "generate nowhere x": "nowhere does not exist: give a run folder, a checkpoint of one, or a",
    "generate texts x": "texts holds no checkpoint: give a run folder",
    "generate run --prompts none.jsonl": "--prompts (none.jsonl) cannot be read: No such file",
    "generate run x --prompts none.jsonl": "prompts are given both here and in --prompts: choose",
    "generate run x --max-new-tokens 0": "--max-new-tokens (0) must be a whole number from 1 up",
    "generate run x --max-new-tokens 3000000000": "--max-new-tokens (3000000000) must be at most",
    "generate run x --temperature -1": "--temperature (-1.0) must be a number from 0 up",
    "generate run x --temperature nan": "--temperature (nan) must be a number from 0 up",
    "generate run x --top-k 0": "--top-k (0) must be a whole number from 1 up",
    "generate run x --top-p 1.5": "--top-p (1.5) must be at most 1",
    "generate run x --seed -1": "--seed (-1) must be a whole number from 0 up",
    "generate run x --stop nothing": "--stop (nothing) is no token of the vocabulary: give one",
    "generate run x --batch-size 0": "--batch-size (0) must be a whole number from 1 up",
    "generate run x --device tpu": "argument --device: invalid choice: 'tpu' (choose from",
    "generate run x --output file": "--output (file) exists: name another file, or remove it",
    "generate run x --output none/x": "--output (none/x) lies in no folder: make none first",
    "eval nowhere texts": "nowhere does not exist: give a run folder",
    "eval run": "the following arguments are required: DATA",
    "eval run nowhere": "nowhere does not exist: give a file, folder or prepared corpus",
    "eval run empty": "empty holds no file: give files with text",
    "eval run texts --row-length 1": "--row-length (1) must be a whole number from 2 up",
    "eval run texts --max-length 1": "--max-length (1) must be a whole number from 2 up",
    "eval run texts --output file": "--output (file) must be a folder",
    "export nowhere new": "nowhere does not exist: give a run folder",
    "export run corpus": "corpus exists: choose another folder, or remove it",
    "export run file/x": "file/x cannot be made: HERE/file is no folder; choose another place",
    "import nowhere": "nowhere does not exist: give a folder of transformers",
    "import texts": "texts holds no config.json: give a folder of transformers",
    "plan nowhere": "nowhere does not exist: give a file, folder or prepared corpus",
    "plan gpt_7x": "gpt_7x is no preset and no path: did you mean gpt_7b?",
    "plan gpt_7b --card-gb 0": "--card-gb (0.0) must be a number above 0",
    "plan gpt_7b trainer.devises=2": "no setting trainer.devises: did you mean trainer.devices?",
    "plan texts --row-length 1": "--row-length (1) must be a whole number from 2 up",
    "plan texts --lookahead 0": "--lookahead (0) must be a whole number from 1 up",
    "plan texts --batch 0": "--batch (0) must be a whole number from 1 up",
    "plan texts --width -1": "--width (-1) must be a whole number from 1 up",
    "plan texts --vocab-size 20000000": "--vocab-size (20000000) must be at most 16,777,216",
    "plan texts --vocab-size 3": "--vocab-size (3) must be a whole number from 258 up",
    "plan texts --output file": "--output (file) must be a folder",
    "plan texts x=3": "unrecognized arguments: x=3; packformer plan --help shows all",
    "bench nothing": "argument SUBJECT: invalid choice: 'nothing' (choose from",
    "bench step nothing": "there is no experiment=nothing: did you mean",
    "bench step gqa model.widht=3": "there is no setting model.widht: did you mean model.width?",
    "bench step gqa --steps 0": "--steps (0) must be a whole number from 1 up",
    "bench step gqa --warmup -1": "--warmup (-1) must be a whole number from 0 up",
    "bench step gqa --output file": "--output (file) must be a folder",
    "bench attention --heads 0": "--heads (0) must be a whole number from 1 up",
    "bench attention --heads 5 --kv-heads 2": "--heads (5) must be divisible by --kv-heads (2)",
    "bench attention --head-dim 0": "--head-dim (0) must be a whole number from 1 up",
    "bench attention --tokens 0": "--tokens (0) must be a whole number from 1 up",
    "bench attention --documents two": "--documents (two) must be `one` or a mean length",
    "bench attention --variants some": "--variants (some) must be of plain, alibi, window",
    "bench attention --output file/x": "--output (file/x) cannot be made (Not a directory): name",
    "bench generate gqa --new-tokens 0": "--new-tokens (0) must be a whole number from 2 up",
    "bench generate gqa --longest 3": "--longest (3) must be a whole number from 16 up",
    "bench generate gqa --output file": "--output (file) must be a folder",
    "bench devices nothing": "there is no experiment=nothing: did you mean",
    "bench devices gqa model.widht=3": "there is no setting model.widht: did you mean model.width",
    "bench devices gqa --devices 0": "--devices (0) must be at least 1",
    "bench devices gqa --output file": "--output (file) must be a folder",
    "bench loader texts --rows 0": "--rows (0) must be a whole number from 1 up",
    "bench loader nowhere --one-text 1": "nowhere is no file: give one with text, or none for",
    "bench prepare texts --rounds 0": "--rounds (0) must be a whole number from 1 up",
    "doctor --head-dim 0": "--head-dim (0) must be a whole number from 1 up",
    "doctor --head-dim 99999": "--head-dim (99999): no kernel takes that size in float32 on cpu",
    "doctor --fuzz 0": "--fuzz (0) must be a whole number from 1 up",
    "doctor --fuzz 1 --seed -1": "--seed (-1) must be a whole number from 0 up",
    "doctor --fuzz 1 --kernel nothing": "--kernel (nothing) must be one of flash4, xformers",
    "doctor --case nothing": "--case (nothing) cannot be read",
    "doctor extra": "unrecognized arguments: extra; packformer doctor --help shows all",
    "inspect nowhere": "nowhere does not exist: give a file, folder or prepared corpus",
    "inspect texts": "texts is no corpus of token shards, it has no manifest.json: make one",
    "inspect corpus --count 0": "--count (0) must be a whole number from 1 up",
    "inspect corpus --document 99": "document 99 does not exist: train has 0 to",
    "inspect corpus --row 99": "row 99 does not exist: one pass over train has 1 row, numbered",
    "inspect corpus --row -1": "--row (-1) must be a whole number from 0 up",
    "inspect corpus --row 0 --row-length 1": "--row-length (1) must be a whole number from 2 up",
    "inspect corpus --characters 0": "--characters (0) must be a whole number from 1 up",
    "inspect corpus --row 0 --seed -1": "--seed (-1) must be a whole number from 0 up",
    "inspect corpus --row 0 --document 3": "argument --document: not allowed with argument --row",
    "genrate run": "there is no command genrate: did you mean generate?",
    "nothing": "argument COMMAND: invalid choice: 'nothing' (choose from",
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with texts, a corpus, a model, an empty folder and an empty file."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "texts").mkdir()
    texts = [f"word{number} is a text of ours" for number in range(20)]
    for number, text in enumerate(texts):
        (folder / "texts" / f"{number}.txt").write_text(text)
    (folder / "empty").mkdir()
    (folder / "file").touch()
    prepare(Preparation(Input((str(folder / "texts"),)), folder / "corpus", vocab_size=280))
    tokenizer: Tokenizer = train_bpe(texts, 280)
    export(
        GPT(384, 64, num_layers=1, width=32, num_heads=2, position=Rotary),
        tokenizer,
        folder / "run",
    )
    return folder


def left_in(folder: Path) -> list[tuple[str, float]]:
    return sorted((str(file), file.stat().st_mtime) for file in folder.rglob("*"))


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_argument_is_one_line(
    words: str,
    here: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(here)
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path))
    before = left_in(here)
    given = words.split()
    if given[0] in ("generate", "eval", "doctor") and "--device" not in given:
        given[1:1] = ["--device", "cpu"]
    with pytest.raises(SystemExit) as end:
        main(given)
    assert end.value.code in (1, 2)
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert WRONG[words].replace("HERE", os.fspath(here)) in err
    assert err.count("\n") == 1
    assert out == ""
    assert left_in(here) == before


WITHOUT_TORCH = (
    "generate nowhere x",
    "generate run x --max-new-tokens 0",
    "generate run x --temperature -1",
    "generate run x --output file",
    "generate run --prompts none.jsonl",
    "eval nowhere texts",
    "eval run nowhere",
    "eval run texts --row-length 1",
    "export nowhere new",
    "export run corpus",
    "export run file/x",
    "inspect nowhere",
    "inspect texts",
    "inspect corpus --count 0",
    "inspect corpus --characters 0",
    "inspect corpus --document 99",
    "inspect corpus --row -1",
    "inspect corpus --row 0 --row-length 1",
    "inspect corpus --row 0 --seed -1",
)


def test_what_needs_no_torch_is_told_before_it_is_imported(here: Path) -> None:
    assert set(WITHOUT_TORCH) <= WRONG.keys()
    code = """
import sys
from packformer.cli import main
for words in sys.argv[1:]:
    try:
        main(words.split())
    except SystemExit as end:
        assert end.code == 1, words
    assert "torch" not in sys.modules, words
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *WITHOUT_TORCH], cwd=here, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("error: ") == len(WITHOUT_TORCH)


@pytest.mark.parametrize("command", ["import", "inspect", "plan"])
def test_a_path_that_is_not_there_is_told_before_torch_is_imported(command: str) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from packformer.cli import main; "
        f"main(['{command}', './nowhere'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "nowhere does not exist: give a" in done.stderr
