"""``packformer train`` is ``python -m train`` under a name that no file hides."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from lightning.fabric.strategies.launchers.subprocess_script import _hydra_subprocess_cmd

from packformer import cli
from packformer.run import train as job

TINY = ("+debug=fast", "data=copying", "logger=csv")


@pytest.fixture
def packformer(tmp_path, monkeypatch, capsys):
    """Runs ``packformer ARGUMENTS`` in this process, in a folder with a ``train.py`` in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("raise SystemExit('the wrong file')\n")

    def run(*arguments: str):
        capsys.readouterr()
        monkeypatch.setattr("sys.argv", ["/somewhere/bin/packformer", *arguments])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return run


def test_it_trains(packformer, tmp_path: Path) -> None:
    code, out, err = packformer("train", *TINY, "trainer.max_steps=1")
    assert code == 0, err
    assert "validation loss" in out
    (folder,) = (tmp_path / "runs").iterdir()
    command = json.loads((folder / "environment.json").read_text())["command"]
    assert command == ["packformer", "train", *TINY, "trainer.max_steps=1"]
    assert sys.argv[1:2] == ["train"]


def test_it_takes_all_of_hydras_options(packformer, tmp_path: Path) -> None:
    assert "experiment: across_documents, alibi, " in packformer("train", "--help")[1]
    assert "--hydra-help" in packformer("train", "--hydra-help")[1]
    shown = packformer("train", "--cfg", "job", "+experiment=mqa", "seed=5")[1]
    assert (yaml.safe_load(shown)["name"], yaml.safe_load(shown)["seed"]) == ("mqa", 5)
    code, out, err = packformer("train", "-m", *TINY, "trainer.max_steps=1", "seed=1,2")
    assert code == 0, err
    assert len(list(tmp_path.glob("runs/sweeps/*/*/summary.json"))) == 2
    code, _, err = packformer("train", "seed=x")
    assert (code, err) == (1, "error: seed (x) must be a whole number from 0 up\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--cfg", "job", "seed=5", "+experiment=mqa"),
        ("seed=5", "--cfg", "job", "+experiment=mqa"),
        ("seed=5", "+experiment=mqa", "--cfg", "job"),
        ("seed=5", "-c", "job", "+experiment=mqa", "--resolve"),
    ],
)
def test_options_may_stand_anywhere(packformer, arguments) -> None:
    code, out, err = packformer("train", *arguments)
    assert code == 0, err
    shown = yaml.safe_load(out)
    assert (shown["name"], shown["seed"]) == ("mqa", 5)


def test_other_ranks_are_started_by_the_same_command(packformer, monkeypatch) -> None:
    started = []

    def watched(*_):
        started.append(_hydra_subprocess_cmd(local_rank=1)[0])
        return 0.0

    monkeypatch.setattr(job, "train", watched)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)  # as in a console script
    assert packformer("train", *TINY)[0] == 0
    ((python, script, *arguments),) = started
    assert (python, script) == (sys.executable, "/somewhere/bin/packformer")
    assert arguments[: 1 + len(TINY)] == ["train", *TINY]
    assert arguments[-1] == "hydra.output_subdir=null"


def test_another_command_starts_without_hydra() -> None:
    code = "import sys; from packformer.cli import main; sys.modules['hydra'] = None; main(['-h'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "train a model" in done.stdout.replace("  ", "")
