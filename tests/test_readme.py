"""Every command of the README works."""

from __future__ import annotations

import csv
import json
import math
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from packformer.cli import main
from packformer.tools.bench.recipe import bench
from packformer.tools.doctor import examination
from packformer.tools.study import study

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
_BLOCKS = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line.partition("  #")[0].strip()
    for block in _BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip() and not line.startswith("#")
]
TRAINING = [command for command in COMMANDS if command.startswith("python -m train")]
_NEEDS_GPU = re.compile(r"gpt_124m|gpt_350m|gpt_1b|recall_gpu|trainer=gpu|trainer\.devices")


def test_the_commands_of_the_readme_are_known() -> None:
    assert len(TRAINING) >= 8
    known = ("python -m train", "packformer ", "make ", "pip install", "git clone", "cd ", "wandb ")
    assert [c for c in COMMANDS if not c.startswith(known)] == []


def _folders(place: Path) -> set[Path]:
    return set(place.glob("runs/*"))


@pytest.mark.parametrize("command", TRAINING)
def test_a_training_command_of_the_readme_runs(
    train: Callable, small: list[str], tmp_path: Path, corpus: Path, command: str
) -> None:
    if "data=shards" in command:
        shards = tmp_path / "shards"
        small_corpus = ["--vocab-size", "300", "--validation-fraction", "0.2"]
        main(["prepare", str(corpus), "--output", str(shards), *small_corpus])
        corpus = shards
    # The user's own text, standing for the paths the README names; few steps, and few trials.
    stand_ins = {
        r"data\.path=\S+": f"data.path={corpus}",
        r"trainer\.max_steps=\d+": "trainer.max_steps=6",
        r"n_trials=\d+": "n_trials=3",
    }
    for pattern, stand_in in stand_ins.items():
        command = re.sub(pattern, stand_in, command)
    arguments = shlex.split(command)[3:]
    if "RUN_FOLDER" in command or "resume=" in command:
        assert train("+experiment=gqa", *small).code == 0
        (folder,) = (tmp_path / "runs").iterdir()
        if "resume=auto" in arguments:
            (folder / "summary.json").unlink()  # as if it had been killed
        arguments = [a.replace("RUN_FOLDER", str(folder)) for a in arguments]
    shorten = ["+debug=fast"] if "data." in command or "recall" in command else small
    if "--cfg" in arguments or "--help" in arguments:
        shorten = []
    elif "+sweep=optuna" in arguments:
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs [optuna]")
    elif _NEEDS_GPU.search(command):
        shorten = ["--cfg", "job", "--resolve"]  # composed, not run
    before = _folders(tmp_path)
    done = train(*arguments, *(s for s in shorten if s not in arguments))
    assert done.code == 0, done.err
    if {"--cfg", "--help"} & {*arguments, *shorten}:
        assert "packing" in done.out
        assert _folders(tmp_path) == before, "nothing is written"
        return
    summaries = [json.loads(f.read_text()) for f in tmp_path.glob("runs/**/summary.json")]
    assert summaries
    for summary in summaries:
        assert 0 < summary["val/loss"] < 2 * math.log(summary["parameters"])
        assert summary["steps"] in (4, 6)
    if "-m" in arguments:
        (table,) = tmp_path.glob("runs/sweeps/*/sweep.csv")
        with table.open(newline="") as file:
            jobs = list(csv.DictReader(file))
        assert len(jobs) == len(summaries) >= 2
    elif "resume=" in command:
        assert len(summaries) == 1, "the run continued in its folder"


TOOLS = [command for command in COMMANDS if command.startswith("packformer ")]


@pytest.mark.parametrize("command", [c for c in TOOLS if "RUN_FOLDER" in c])
def test_a_tool_of_the_readme_uses_a_run(
    train: Callable, small: list[str], tmp_path: Path, command: str, capsys
) -> None:
    assert train("+experiment=gqa", *small).code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    capsys.readouterr()
    main(shlex.split(command.replace("RUN_FOLDER", str(folder)))[1:])
    assert capsys.readouterr().out.strip()


RECIPES = [command for command in TOOLS if command.startswith("packformer bench recipe")]
STUDIES = [command for command in TOOLS if command.startswith("packformer study")]


@pytest.mark.parametrize("command", STUDIES)
def test_a_study_of_the_readme_runs(
    train: Callable, small: list[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(study, "run_sweep", lambda sweep: train(*sweep[1:]).code)
    few = [*small, "trainer.max_steps=2", "logger=csv", "--seeds", "1", "--position-tokens", "0"]
    main([*shlex.split(command)[1:], *few, "--output", "answer"])
    assert "alibi: its loss is" in Path("answer", "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", RECIPES)
def test_a_comparison_of_recipes_of_the_readme_runs(
    train: Callable, small: list[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(bench, "run_sweep", lambda sweep: train(*sweep[1:]).code)
    few = [*small, "trainer.max_steps=2", "--recipes", "adamw", "muon", "nanogpt"]
    main([*shlex.split(command)[1:], *few, "--output", "answer"])
    assert Path("answer", "recipe.csv").read_text(encoding="utf-8").count("\n") == 4


@pytest.mark.parametrize(
    "command", [c for c in TOOLS if c not in (*STUDIES, *RECIPES) and "RUN_FOLDER" not in c]
)
def test_a_tool_of_the_readme_runs(
    tmp_path: Path,
    corpus: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    # All variants: tools/doctor/test_examination.py.
    few = {name: examination.VARIANTS[name] for name in ("mha", "gqa alibi window")}
    monkeypatch.setattr(examination, "VARIANTS", few)
    small = {
        "packformer plan": ["--vocab-size", "300", "--row-length", "256"],
        "packformer prepare": ["--vocab-size", "300"],
        "packformer doctor": ["--device", "cpu", "--head-dim", "16"],
        "packformer bench attention": ["--device", "cpu", "--tokens", "64", "--documents", "20"],
        "packformer bench step": [
            *("data=text", f"data.path={corpus}", "data.vocab_size=300", "packing.row_length=128"),
            *("model.width=32", "model.num_heads=2"),
            *("--steps", "2", "--warmup", "1", "--no-peers"),
        ],
    }
    command = command.replace("my_texts.jsonl", str(corpus))
    if "doctor" not in command:
        command += f" --output {tmp_path}"
    (more,) = (more for start, more in small.items() if command.startswith(start))
    main([*shlex.split(command)[1:], *more])
    if "doctor" not in command:
        assert [file for file in tmp_path.rglob("*") if file.is_file() and file.stat().st_size]
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_make_knows_its_targets(command: str) -> None:
    done = subprocess.run(
        ["make", "-n", *shlex.split(command)[1:]], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
