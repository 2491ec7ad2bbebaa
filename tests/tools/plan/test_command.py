"""``packformer plan``."""

import csv
from pathlib import Path

import pytest

from packformer.cli import main

pytestmark = pytest.mark.usefixtures("blank")


@pytest.mark.usefixtures("drawn")
def test_plan_compares_ways_on_the_users_own_text(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.txt").write_text("some words of text " * (1 + number % 13))
    sizes = ["--row-length", "128", "--max-document-length", "64", "--vocab-size", "300"]
    main(["plan", str(folder), *sizes, "--output", str(tmp_path / "plan")])
    out = capsys.readouterr().out
    assert "40 documents" in out
    for way in ("pad to the longest of 8", "pad to 64 tokens", "concatenate", "first fit", "best"):
        assert way in out
    with (tmp_path / "plan" / "plan.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["relative_speed"]) == 1.0
    assert float(rows[0]["fill"]) < float(rows[-1]["fill"]) <= 1
    assert float(rows[0]["kept"]) == float(rows[-1]["kept"]) == 1
    assert " kept " in out
    assert (tmp_path / "plan" / "plan.png").stat().st_size > 10_000


@pytest.mark.parametrize("policy", ["best_fit", "concatenate", "blocks"])
def test_speeds_are_relative_to_the_policy_asked_for(tmp_path, monkeypatch, capsys, policy):
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.jsonl").write_text(
        "".join(f'{{"text": "{"some words of text " * (1 + n % 13)}"}}\n' for n in range(40))
    )
    sizes = ["--row-length", "128", "--max-document-length", "64", "--vocab-size", "300"]
    plan = tmp_path / "plan"
    main(["plan", str(tmp_path / "a.jsonl"), *sizes, "--policy", policy, "--output", str(plan)])
    names = {
        "best_fit": "best fit (packformer)",
        "concatenate": "concatenate, documents apart",
        "blocks": "concatenate, blocks of 64",
    }
    with (plan / "plan.csv").open() as file:
        speeds = {row["way"]: float(row["relative_speed"]) for row in csv.DictReader(file)}
    assert speeds[names[policy]] == 1.0
    assert speeds[names["concatenate"]] > speeds[names["blocks"]]
    assert names["blocks"] in capsys.readouterr().out


def test_a_corpus_shorter_than_a_row_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.txt").write_text("some words of text " * 20)
    sizes = ["--row-length", "4096", "--vocab-size", "300"]
    main(["plan", str(tmp_path / "a.txt"), *sizes, "--output", str(tmp_path / "plan")])
    out = capsys.readouterr().out
    assert "all documents together are shorter than a row of 4,096 tokens" in out
    assert "packing made 1 row: the last, partly full, lowers the fill" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere"], "/nowhere does not exist: give a file, folder"),
        (["--row-length", "1"], "--row-length (1) must be a whole number from 2 up"),
        (["--batch", "0"], "--batch (0) must be"),
        (["--layers", "0"], "--layers (0) must be"),
    ],
)
def test_plan_names_what_is_wrong(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["plan", *arguments])
    assert f"error: {message}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_earlier_plan_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("some words " * 500)
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "plan.csv").write_text("mine")
    with pytest.raises(SystemExit):
        main(["plan", str(tmp_path / "a.txt"), "--output", str(tmp_path / "plan")])
    assert f"--output ({tmp_path}/plan) has a plan.csv: name another" in capsys.readouterr().err
    assert (tmp_path / "plan" / "plan.csv").read_text() == "mine"
