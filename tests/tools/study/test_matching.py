"""``packformer study --match``: the variants are matched first, then trained, then compared."""

from __future__ import annotations

import csv
import json
import re
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from packformer.cli import main
from packformer.tools.study import asked as asking
from packformer.tools.study import study as module
from packformer.tools.study.asked import Study
from packformer.tools.study.matching import sized_variants

pytestmark = pytest.mark.usefixtures("blank")

GIVEN = ["study", "+experiment=mha,gqa", "model.num_layers=1", "--match", "parameters"]


@pytest.fixture
def swept(tmp_path, monkeypatch) -> list[list[str]]:
    """The sweeps that a study asked for; their runs finish without training."""
    monkeypatch.chdir(tmp_path)
    asked = []

    def sweep(command: list[str]) -> int:
        asked.append(command)
        given = dict(one.lstrip("+").split("=") for one in command[2:])
        for seed in given["seed"].split(","):
            folder = Path(given["hydra.sweep.dir"].strip('"'), f"{seed}_seed-{seed}")
            folder.mkdir(parents=True, exist_ok=True)
            own = [*command[2:-2], f"seed={seed}"]
            config = {"name": given["experiment"], "seed": int(seed), "overrides": own}
            (folder / "config.yaml").write_text(yaml.safe_dump(config))
            (folder / "summary.json").write_text(json.dumps({"val/loss": 5 + 0.1 * len(asked)}))
        return 0

    monkeypatch.setattr(module, "run_sweep", sweep)
    monkeypatch.setattr(asking, "sized_variants", cache(sized_variants))
    return asked


def test_a_matched_study_from_the_command_to_the_page(
    swept, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*GIVEN, "--seeds", "2", "--position-tokens", "0", "--output", "answer"]
    main(given)
    told = capsys.readouterr().out
    how = re.search(r"matched  (gqa: model.hidden_width 512 -> (\d+), parameters .*)", told)
    assert how is not None
    own = ["+experiment=gqa", "model.num_layers=1", f"model.hidden_width={how[2]}"]
    assert swept == [
        [*("train", "-m", *variant), "seed=0,1", f'hydra.sweep.dir="answer/{name}"']
        for name, variant in (
            ("mha", ["+experiment=mha", "model.num_layers=1"]),
            ("gqa", own),
        )
    ]
    with Path("answer", "report.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["variant"], row["finished_seeds"]) for row in rows] == [("mha", "2"), ("gqa", "2")]
    assert rows[1]["matched"] == how[1]

    main(given)  # continues with the same sweeps
    assert swept[2:] == swept[:2]
    plain = [one for one in given if one not in ("--match", "parameters")]
    for other in ([*given, "--reference", "gqa"], plain):
        with pytest.raises(SystemExit):
            main(other)
        assert "of another study (gqa: model.hidden_width" in capsys.readouterr().err
    assert len(swept) == 4

    monkeypatch.setitem(sys.modules, "torch", None)  # which the report does not need
    main(["report", "answer", "--reference", "gqa"])
    assert how[1] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--match", "kv_bytes", "--reference", "gqa"], "mha cannot be matched in KV-cache bytes"),
        (["--reference", "alibi"], "--reference (alibi) is none of the variants: name one of mha"),
        (["model.tie_embeddings=true,false"], "so embedding and head differ"),
        (["+data.api_key=abc"], "data.api_key looks like a secret"),
        (["logger=csv,tensorboard"], "--match: two variants are called mha: list each value once"),
    ],
)
def test_what_cannot_be_matched_is_refused_in_a_line(
    arguments, words, swept, refused_in_a_line
) -> None:
    assert words in refused_in_a_line(*GIVEN, *arguments)
    assert not swept


def test_a_ladder_is_matched_at_each_size_under_the_names_of_the_page() -> None:
    given = ["attention.num_kv_heads=4,1", "model.num_heads=4", "model.hidden_width=512"]
    found = sized_variants(
        [*given, "model.num_layers=1"], "model.width=96,192", "num_kv_heads=4", "parameters"
    )
    assert [one.placed.told.partition(":")[0] for one in found] == [
        f"num_kv_heads={heads} at width={width}" for heads in (4, 1) for width in (96, 192)
    ]
    assert found[1].overrides == found[1].placed.overrides  # the reference stays as it is
    few = found[3]
    assert few.placed.overrides[-1] == "model.width=192"
    assert "model.hidden_width=512" in few.placed.overrides
    assert [one for one in few.overrides if "hidden_width" in one] == [few.overrides[-1]]
    assert len({one.placed.folder for one in found}) == 4


def test_a_matched_ladder_of_an_earlier_version_continues(swept) -> None:
    given = [*GIVEN, "--seeds", "2", "--position-tokens", "0", "--output", "answer"]
    given += ["--ladder", "model.width=96,192,384"]
    main(given)
    file = Path("answer", "study.json")
    text = file.read_text()
    assert text.count(" at width=96: ") == 2
    file.write_text(re.sub(r" at width=(\d+): ", r", \1: ", text))
    folders = sorted(Path("answer").iterdir())
    assert any(re.fullmatch(r"gqa-96-\w{6}", folder.name) for folder in folders)
    main(given)
    assert sorted(Path("answer").iterdir()) == folders


def test_each_matching_has_a_folder_of_its_own() -> None:
    plain = Study(("+experiment=mha,gqa",))
    by = Study(("+experiment=mha,gqa",), match="parameters")
    other = Study(("+experiment=mha,gqa",), match="parameters", reference="gqa")
    assert len({one.folder for one in (plain, by, other)}) == 3
