"""``--config-dir`` adds choices of one's own to commands that take settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from packformer.cli import main
from packformer.tools.bench.recipe import bench

pytestmark = pytest.mark.usefixtures("blank")


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder with an experiment, and the setting that adds it."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "my conf" / "experiment" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(
        "# @package _global_\n"
        "defaults:\n  - gqa\n  - _self_\n"
        "model:\n  num_layers: 1\n  hidden_width: 256\n"
    )
    return f'hydra.searchpath=["file://{tmp_path}/my conf"]'


def test_variants_of_ones_own_are_matched(capsys: pytest.CaptureFixture[str], own: str) -> None:
    given = ["match", "parameters", "+experiment=gqa,mine", "--config-dir", "my conf"]
    main([*given, "model.num_layers=1"])
    told = capsys.readouterr().out
    assert "mine: model.hidden_width 256 -> " in told
    commands = [line for line in told.splitlines() if line.startswith("packformer train ")]
    assert [own in command for command in commands] == [True, True]


def test_a_preset_of_ones_own_is_planned(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "mine", "--config-dir", "my conf"])
    assert "fits a GPU of 80 GB" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["plan", "--config-dir", "my conf"])
    assert "--config-dir is of a preset, and no preset is given" in capsys.readouterr().err


def test_a_preset_of_ones_own_is_raced(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    swept: list[list[str]] = []
    monkeypatch.setattr(bench, "run_sweep", lambda command: swept.append(command) or 1)
    given = ["bench", "recipe", "mine", "--recipes", "adamw", "a: optimizer.learning_rate=0.1"]
    with pytest.raises(SystemExit):
        main([*given, "--config-dir", "my conf"])
    assert ["+experiment=mine" in one and own in one for one in swept] == [True, True]


@pytest.mark.parametrize(
    "command",
    ["match parameters +experiment=gqa,mha", "plan mine", "bench recipe mine", "study seed=1,2"],
)
def test_what_is_no_folder_is_refused(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*command.split(), "--config-dir", "my_conf"])
    assert capsys.readouterr().err == "error: --config-dir (my_conf) is no folder\n"
