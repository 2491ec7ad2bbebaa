"""``packformer study --tune``: values are tried first, then each variant trains with its own."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from packformer.cli import main
from packformer.study.placed import Placed
from packformer.study.tuning import Trial, Tuned, Tuning
from packformer.tools.study import study as module
from packformer.tools.study.asked import Study
from packformer.tools.study.matching import SizedVariant
from packformer.tools.study.tuning import tuning_of, with_best

pytestmark = pytest.mark.usefixtures("blank")

RATE = "optimizer.learning_rate"
GIVEN = ["study", "+experiment=mha,gqa", "--seeds", "2", "--position-tokens", "0"]
GIVEN += ["--output", "answer", "--tune"]
BEST = {"mha": 0.002, "gqa": 0.001}


@pytest.fixture
def swept(tmp_path, monkeypatch) -> list[str]:
    """The sweeps that a study asked for; losses are lowest at ``BEST``, and 0.03 is too large."""
    monkeypatch.chdir(tmp_path)
    asked = []

    def sweep(command: list[str]) -> int:
        asked.append(" ".join(command[2:]))
        given = dict(one.lstrip("+").split("=", 1) for one in command[2:])
        name, code = given["experiment"], 0
        place = Path(given["hydra.sweep.dir"].strip('"'))
        for value in given[RATE].split(","):
            for seed in given["seed"].split(","):
                folder = place / f"0_{name}_{value}_{seed}"
                folder.mkdir(parents=True, exist_ok=True)
                own = [f"+experiment={name}", f"{RATE}={float(value):g}", f"seed={seed}"]
                if float(value) >= 0.03:
                    code, failure = 1, {"name": name, "error": "it broke", "overrides": own}
                    (folder / "failure.json").write_text(json.dumps(failure))
                    continue
                config = {"name": name, "seed": int(seed), "overrides": own}
                (folder / "config.yaml").write_text(yaml.safe_dump(config))
                loss = 5 + abs(float(value) - BEST[name]) + 0.001 * int(seed)
                (folder / "summary.json").write_text(json.dumps({"val/loss": loss}))
        (place / "sweep.csv").write_text(str(len(asked)))
        return code

    monkeypatch.setattr(module, "run_sweep", sweep)
    return asked


def sweep_of(name: str, rates: str, seeds: str, place: str) -> str:
    own = f"+experiment={name} {RATE}={rates} seed={seeds}"
    return f'{own} hydra.sweep.dir="answer/{name}/{place}"'


def rows() -> list[dict[str, str]]:
    with Path("answer", "report.csv").open() as stream:
        return list(csv.DictReader(stream))


def losses() -> list[float]:
    return [float(row["loss"]) for row in rows()]


def test_each_variant_is_tuned_and_then_trained_with_its_value(swept, capsys) -> None:
    main([*GIVEN, f"{RATE}=1e-3,2e-3,3e-2"])
    assert swept == [
        sweep_of("mha", "1e-3,2e-3,3e-2", "1000", "tuning"),
        sweep_of("gqa", "1e-3,2e-3,3e-2", "1000", "tuning"),
        sweep_of("mha", "0.002", "0,1", "learning_rate_0.002"),
        sweep_of("gqa", "0.001", "0,1", "learning_rate_0.001"),
    ]
    told = capsys.readouterr().out
    gqa = f"gqa: {RATE}=0.001 (0.001: 6.0000; 0.002: 6.0010; 0.03: failed (it broke))"
    warning = f"The best {RATE} of gqa, 0.001, is the smallest that was tried: try smaller ones."
    end = f"The best {RATE} of mha, 0.002, is the largest whose run finished: try others near it."
    assert told.index(f"tuned    {gqa}") < told.index("learning_rate_0.002")
    assert {warning, end} <= set(told.splitlines())
    assert [(row["variant"], row["finished_seeds"]) for row in rows()] == [
        ("mha", "2"),
        ("gqa", "2"),
    ]
    assert losses() == pytest.approx([5.0005] * 2)
    assert rows()[1]["tuned"] == gqa

    Path("answer", "report.html").unlink()
    main(["report", "answer"])  # from the folder alone
    again = capsys.readouterr().out
    assert gqa in again.splitlines()
    assert warning in Path("answer", "report.html").read_text(encoding="utf-8")


def test_a_value_that_is_added_and_better_replaces_the_runs_of_the_former(swept, capsys) -> None:
    main([*GIVEN, f"{RATE}=2e-3,4e-3"])
    assert losses() == pytest.approx([5.0005, 5.0015])
    del swept[:]
    main([*GIVEN, f"{RATE}=1e-3,2e-3,4e-3"])
    assert swept[2:] == [
        sweep_of("mha", "0.002", "0,1", "learning_rate_0.002"),
        sweep_of("gqa", "0.001", "0,1", "learning_rate_0.001"),
    ]
    assert losses() == pytest.approx([5.0005] * 2)
    assert [row["finished_seeds"] for row in rows()] == ["2"] * 2
    assert Path("answer", "gqa", "learning_rate_0.002").is_dir()


def test_a_study_that_is_killed_while_it_tunes_continues(swept, monkeypatch) -> None:
    sweep = module.run_sweep

    def killed(command: list[str]) -> int:
        sweep(command)
        shutil.copytree("answer", "killed")  # as it is then
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "run_sweep", killed)
    given = [*GIVEN, f"{RATE}=1e-3,2e-3"]
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        main(given)
    shutil.rmtree("answer")
    Path("killed").rename("answer")
    monkeypatch.setattr(module, "run_sweep", sweep)
    main(given)
    assert losses() == pytest.approx([5.0005] * 2)


def test_a_variant_that_no_value_trains_ends_the_study_before_its_seeds(swept, capsys) -> None:
    with pytest.raises(SystemExit):
        main([*GIVEN, f"{RATE}=3e-2,6e-2"])
    assert capsys.readouterr().err == (
        f"error: no run that tunes {RATE} of mha finished (0.03 failed (it broke); 0.06 failed (it "
        "broke)): the same command repeats them\n"
    )
    assert swept == [sweep_of("mha", "3e-2,6e-2", "1000", "tuning")]
    with pytest.raises(SystemExit):
        main(["report", "answer"])
    assert "no run to compare" in capsys.readouterr().err


def test_values_that_change_what_the_loss_means_end_the_study() -> None:
    tuned = Tuned("gqa", "loader.validation_rows", (Trial("8", 5), Trial("9", 4)), "other rows")
    variant = SizedVariant(Placed("gqa", ()), (), "gqa")
    with pytest.raises(
        ValueError, match="gqa cannot be tuned, as the runs with its values have other"
    ):
        with_best(variant, "loader.validation_rows=8,9", tuned)


@pytest.mark.parametrize(
    "other",
    [
        ["--tune", "optimizer.weight_decay=0.1,0.2"],
        [],
        ["--tune", f"{RATE}=1e-3,2e-3", "--match", "parameters"],
    ],
)
def test_a_folder_holds_one_tuning(other, swept, capsys) -> None:
    main([*GIVEN, f"{RATE}=1e-3,2e-3"])
    del swept[:]
    with pytest.raises(SystemExit):
        main([*GIVEN[:-1], *other])
    told = capsys.readouterr().err
    former = "not matched" if "--match" in other else f"tuned in {RATE}"
    assert f"of another study ({former}): give another folder" in told
    assert not swept


def test_a_variant_that_is_left_out_is_named(swept, capsys) -> None:
    main([*GIVEN, f"{RATE}=1e-3,2e-3"])
    with pytest.raises(SystemExit):
        main(["study", "+experiment=gqa,mqa", *GIVEN[2:], f"{RATE}=1e-3,2e-3"])
    assert "holds mha/" in (told := capsys.readouterr().err)
    assert "of another study (another variant): give another folder" in told


def test_a_study_that_was_not_tuned_is_not_tuned_later(swept, capsys) -> None:
    folder = Path("answer", "0_mha_seed-0")
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("name: mha\nseed: 0\n")
    Path("answer", "sweep.csv").touch()
    with pytest.raises(SystemExit):
        main([*GIVEN, f"{RATE}=1e-3,2e-3"])
    assert "holds 0_mha_seed-0 of another study (not tuned)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([f"{RATE}=1e-3"], f"--tune ({RATE}=1e-3) must list two values or more: write --tune"),
        ([RATE], f"--tune ({RATE}) must list two values or more"),
        ([f"{RATE}=1e-3,0.001"], "lists 0.001 twice: list each value once"),
        ([f"{RATE}=interval(1,2)"], "must list its values"),
        ([f"{RATE}=1,2", "--tune", "seed=1,2"], "--tune is given 2 times: one setting can be"),
        (["seed=1,2"], "seed is not a setting of a study: use --seeds"),
        (["hydra.verbose=true,false"], "hydra.verbose is not a setting of a run"),
        ([f"{RATE}=1,2", f"{RATE}=3,4"], f"its values, and so does {RATE}=3,4: leave one out"),
        ([f"{RATE}=1,2", f"{RATE}=3"], f"its values, and so does {RATE}=3: leave one out"),
        (["+experiment=mqa,alibi"], "and so does +experiment=mha,gqa: leave one out"),
        (
            ["model.width=64,96", "--ladder", "model.width=64,96,128"],
            "--tune and --ladder both list model.width: tune another setting",
        ),
        (
            ["model.num_layers=1,2", "--match", "parameters"],
            "--tune model.num_layers could undo --match",
        ),
        (
            ["optimizer.learning_rat=1,2"],
            "--tune: there is no setting optimizer.learning_rat: did you mean optimizer.learning_r",
        ),
        (["+data.api_key=abc,def"], "data.api_key looks like a secret"),
        (["optimizer=adamw,muonn"], "--tune: there is no optimizer=muonn"),
        ([f"{RATE}=1,2", "--seeds", "1001"], "--seeds (1,001) must be at most 1,000 with --tune"),
        ([f"{RATE}=1,2", "logger=csv,tensorboard"], "--tune: two variants are called mha"),
        ([f"{RATE}=abc,1e-3"], f"error: {RATE} (abc) must be a number above 0"),
        (
            ["model.num_heads=6,3"],
            "error: gqa with model.num_heads=3 cannot be trained: model.num_heads (3) must be",
        ),
        (
            ["bpe_vocab_size=300,400"],
            "--tune bpe_vocab_size changes what the loss means (data.vocab_size is 300 or 400): "
            "tune another setting",
        ),
        (
            ["loader.validation_rows=4,8"],
            "changes what the loss means (loader.validation_rows is 4 or 8)",
        ),
        (
            ["packing.row_length=1024,2048"],
            "changes what the loss means (packing.row_length is 1024 or 2048)",
        ),
        (
            ["data.validation_fraction=0.1,0.2"],
            "changes what the loss means (data.validation_fraction is 0.1 or 0.2",
        ),
        (["data=stdlib,random"], "changes what the loss means (data._target_ is"),
        (
            ["attention=mha,gqa"],
            "--tune attention sets what tells variants apart: with attention=mha, mha and gqa are "
            "the same; tune another setting",
        ),
    ],
)
def test_what_cannot_be_tuned_is_refused_in_a_line(
    arguments, words, swept, monkeypatch, refused_in_a_line
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert words in refused_in_a_line(*GIVEN, *arguments)
    assert not swept


def test_values_are_written_as_a_sweep_writes_them() -> None:
    assert tuning_of(f"+{RATE}=1e-3,2.0") == Tuning(RATE, ("0.001", "2.0"), 1000)


def test_more_values_belong_to_the_same_folder() -> None:
    folders = [
        Study(("+experiment=mha,gqa",), tune=tune).folder
        for tune in (None, f"{RATE}=1,2", f"{RATE}=1,2,4", "optimizer.weight_decay=0.1,0.2")
    ]
    assert folders[1] == folders[2]
    assert len(set(folders)) == 3


def test_a_tuned_ladder_from_the_command_to_the_page(in_this_process, small, capsys) -> None:
    given = ["study", "+experiment=mha", *small, "trainer.max_steps=2", "logger=csv"]
    given += ["--seeds", "1", "--position-tokens", "300", "--output", "answer"]
    main(
        [*given, "--ladder", "model.width=16,32", "--hold-out", "0", "--tune", f"{RATE}=1e-3,1e-9"]
    )
    assert len(in_this_process) == 4
    told = capsys.readouterr().out  # after the last sweep
    placed = re.findall(r"^position \d/2 (.*): measured$", told, flags=re.MULTILINE)
    assert len(set(placed)) == 2
    assert all(Path("answer", one, "loss_by_position.json").is_file() for one in placed)
    tuned = re.findall(rf"^mha at width=(\d+): {RATE}=0.001 \(", told, flags=re.MULTILINE)
    assert tuned == [row["size"] for row in rows()] == ["16", "32"]
    assert "mha: L(N) = A N^-alpha" in told
    assert "fitted to 2 sizes (2 runs)" in told


def test_a_tuned_study_from_the_command_to_the_page(in_this_process, small, capsys) -> None:
    given = ["study", "+experiment=gqa", *small, "trainer.max_steps=3", "logger=csv"]
    given += ["--seeds", "1", "--position-tokens", "0", "--output", "answer", "--tune"]
    main([*given, f"{RATE}=1e-3,1e-9"])
    (row,) = rows()
    assert row["tuned"].startswith(f"gqa: {RATE}=0.001 (0.001: ")
    assert row["finished_seeds"] == "1"
    config = Path("answer", "gqa", "learning_rate_0.001", "0_gqa", "config.yaml")
    assert yaml.safe_load(config.read_text())["optimizer"]["learning_rate"] == 0.001
    capsys.readouterr()

    del in_this_process[:]
    main([*given, f"{RATE}=1e-9,1e-3,1e-8"])
    assert [told.count("finished before") for told in in_this_process] == [2, 1]
    assert rows()[0]["loss"] == row["loss"]
    assert "0.001, is the largest that was tried" in capsys.readouterr().out
