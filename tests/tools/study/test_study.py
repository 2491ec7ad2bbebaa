"""``packformer study`` trains, measures and reports; ``packformer report`` makes the page again."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path

import pytest

from packformer.cli import main
from packformer.interruption import Interrupted
from packformer.ranks.launched import OF_COMMAND
from packformer.run.lock import lock_study
from packformer.study.question import Question, read_question, write_question
from packformer.tools.study import study as module
from packformer.tools.study.asked import Study

pytestmark = pytest.mark.usefixtures("blank")


@pytest.mark.usefixtures("drawn")
def test_a_study_from_the_command_to_the_page(
    in_this_process, small, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["study", "+experiment=mha,alibi", *small, "trainer.max_steps=4", "logger=csv"]
    given += ["optimizer.learning_rate=1e-3"]  # which a sweep writes as 0.001
    given += ["--seeds", "2", "--position-tokens", "500", "--output", "answer"]
    main(given)
    told = capsys.readouterr().out
    assert "alibi is" in told
    assert "has begun" not in told
    page = Path("answer", "report.html").read_text(encoding="utf-8")
    assert "Position and length" in page
    with Path("answer", "report.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["variant"], row["finished_seeds"]) for row in rows] == [
        ("mha", "2"),
        ("alibi", "2"),
    ]
    measured = json.loads(Path("answer", "0_mha_seed-0", "loss_by_position.json").read_text())
    assert measured["max_length"] == 4 * measured["trained_length"]
    assert sum(span["tokens"] for span in measured["by_position"]) == measured["tokens"] >= 400

    Path("answer", "3_alibi_seed-1", "summary.json").unlink()
    main(given)
    again = capsys.readouterr().out
    assert in_this_process[1].count("finished before") == 3
    assert "position" not in again  # the weights are those that were measured
    with Path("answer", "report.csv").open() as stream:
        kept = list(csv.DictReader(stream))
    assert [row["loss"] for row in kept] == [row["loss"] for row in rows]

    Path("answer", "report.html").unlink()
    monkeypatch.setitem(sys.modules, "torch", None)  # which the report does not need
    main(["report", "answer", "--reference", "alibi"])
    assert "mha is" in capsys.readouterr().out
    assert Path("answer", "report.html").is_file()


def test_failed_runs_are_told_and_the_command_fails(train, small, monkeypatch, capsys) -> None:
    monkeypatch.setattr(module, "run_sweep", lambda command: train(*command[1:]).code)
    kernels = "attention.kernel=sdpa,flash4"  # which needs a GPU
    given = ["study", kernels, *small, "trainer.max_steps=2", "logger=csv", "--seeds", "1"]
    with pytest.raises(SystemExit):
        main([*given, "--position-tokens", "0", "--output", "answer"])
    found = capsys.readouterr()
    assert "kernel=flash4: no run is finished, so nothing can be said." in found.out
    assert re.search(r"seed 0 failed \(.*flash4.*\)", found.out)
    assert "1 run of the study did not finish: the same command repeats them" in found.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seeds", "0"], "--seeds (0) must be"),
        (["--seeds", "10001"], "--seeds (10,001) must be at most 10,000"),
        (["--hold-out", "2"], "--hold-out (2) needs sizes of which it holds out the largest"),
        (["seed=1,2"], "seed is not a setting of a study: use --seeds"),
        (["hydra.sweep.dir=x"], "hydra.sweep.dir is not a setting of a study: use --output"),
        (["--ladder", "model.width"], "--ladder (model.width) must list sizes"),
        (["--jobs", "0"], "--jobs (0) must be"),
        (["--reference", "gq"], "--reference (gq) is none of the variants: name one of gqa"),
        (
            ["--ladder", "model.width=64,128"],
            "--ladder lists 2 sizes, of which --hold-out (1) leaves fewer than the two",
        ),
        (["--ladder", "model.width=48,48,96"], "lists 48 twice: list each value once"),
        (["--ladder", "loss_chunk=48,48.0,96"], "lists 48.0 twice: list each value once"),
        (
            ["model.width=48", "--ladder", "model.width=48,72,96"],
            "--ladder gives model.width its values, and so does model.width=48: leave one out",
        ),
        (
            ["--ladder", "model.width=96,100,128,192"],
            "gqa at width=100 cannot be trained: model.width (100) must be divisible by "
            "model.num_heads (6), unless attention.head_dim is set; nor can gqa at width=128",
        ),
        (
            ["attention.num_kv_heads=2,4"],
            "num_kv_heads=4 cannot be trained: model.num_heads (6) must be divisible by "
            "attention.num_kv_heads (4)",
        ),
        (["name=a,b", "trainer.max_step=2"], "error: there is no setting trainer.max_step: did"),
        (["data=text"], "error: data.path is needed and not given: write data.path=my_texts"),
        (
            ["attention.num_kv_heads=2,4", "--tune", "optimizer.learning_rate=-1,1e-3"],
            "num_kv_heads=2 with optimizer.learning_rate=-1 cannot be trained: "
            "optimizer.learning_rate (-1) must be a number above 0; nor can num_kv_heads=4 with "
            "optimizer.learning_rate=-1 and num_kv_heads=4 with optimizer.learning_rate=0.001",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_before_torch_is_imported(
    arguments, words, monkeypatch, refused_in_a_line
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(module, "run_sweep", lambda command: pytest.fail("a sweep began"))
    assert words in refused_in_a_line("study", "+experiment=gqa", *arguments)


def test_a_study_that_is_refused_leaves_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = tmp_path / "study.json"
    write_question(Question(seeds=(0, 1)), tmp_path)
    before = asked.read_bytes()
    monkeypatch.setattr(module, "run_sweep", lambda command: 1)  # which says what is wrong
    given = ["study", "+experiment=gqa,mha", "--seeds", "7", "--output", str(tmp_path)]
    with pytest.raises(SystemExit):
        main(given)
    assert capsys.readouterr().err.endswith("no run was started: the lines above say why\n")
    assert asked.read_bytes() == before
    assert list(tmp_path.iterdir()) == [asked]
    with pytest.raises(SystemExit):
        main([*given[:-1], str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("more", [(), ("--match", "parameters")])
def test_a_study_whose_sweep_is_refused_leaves_nothing(more, in_this_process, tmp_path) -> None:
    given = ["study", "+experiment=gqa,mha", "hydra/launcher=side_by_side", *more]
    given += ["trainer.accelerator=cpu", "--output"]  # without --jobs, which the sweep refuses
    with pytest.raises(SystemExit):
        main([*given, "new"])
    assert not list(tmp_path.iterdir())
    notes = tmp_path / "old" / ".notes"
    notes.parent.mkdir()
    notes.touch()
    with pytest.raises(SystemExit):
        main([*given, "old"])
    assert list(tmp_path.rglob("*")) == [notes.parent, notes]
    assert len(in_this_process) == 2


def test_a_folder_of_other_files_is_refused_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "run_sweep", lambda command: pytest.fail("a sweep began"))
    (tmp_path / "index.md").touch()
    (tmp_path / ".hidden").touch()
    with pytest.raises(SystemExit):
        main(["study", "+experiment=gqa,mha", "--output", str(tmp_path)])
    assert f"--output ({tmp_path}) holds index.md and is no study" in capsys.readouterr().err
    assert {file.name for file in tmp_path.iterdir()} == {"index.md", ".hidden"}


def test_a_sweep_that_does_not_fit_into_the_folder_of_a_study_advises_its_option(
    train, small, monkeypatch
) -> None:
    told: list[str] = []

    def sweep(command: list[str]) -> int:
        done = train(*command[1:])
        told.append(done.err)
        return done.code

    monkeypatch.setattr(module, "run_sweep", sweep)
    monkeypatch.setenv(OF_COMMAND, "1")
    given = ["study", "+experiment=gqa", *small, "trainer.max_steps=2", "logger=csv"]
    given += ["--seeds", "1", "--position-tokens", "0", "--output", "answer"]
    main(given)
    with pytest.raises(SystemExit):
        main([*given, "optimizer.weight_decay=0.3"])
    assert "give another --output" in told[-1]
    assert "hydra.sweep.dir" not in told[-1]


def test_an_interrupted_study_says_what_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(command: list[str]) -> int:
        (tmp_path / "sweep.csv").touch()  # after the first job
        raise Interrupted.by_code(130)

    monkeypatch.setattr(module, "run_sweep", interrupted)
    with pytest.raises((Interrupted, SystemExit)):
        main(["study", "+experiment=gqa,mha", "--seeds", "7", "--output", str(tmp_path)])
    question = read_question(tmp_path)
    assert question.seeds == tuple(range(7))
    assert question.asked == (("+experiment=gqa",), ("+experiment=mha",))


def test_two_studies_at_once_do_not_share_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "run_sweep", lambda command: pytest.fail("a sweep began"))
    lock = lock_study(tmp_path)
    with pytest.raises(SystemExit):
        main(["study", "+experiment=gqa,mha", "--output", str(tmp_path)])
    assert f"another study is running in {tmp_path}: wait for it" in capsys.readouterr().err
    lock.release()


def test_the_sweep_has_every_variant_size_and_seed(tmp_path: Path) -> None:
    study = Study(("+experiment=mha,gqa",), num_seeds=2, ladder="model.width=64,128", jobs=2)
    ((command, place),) = study.sweeps(tmp_path, [])
    assert place == tmp_path
    assert command == [
        *("train", "-m", "+experiment=mha,gqa", "model.width=64,128", "seed=0,1"),
        f'hydra.sweep.dir="{tmp_path}"',
        *("hydra/launcher=side_by_side", "hydra.launcher.jobs=2"),
    ]
    assert study.sizes == "model.width"


def test_more_seeds_belong_to_the_same_folder() -> None:
    one = Study(("+experiment=mha,gqa",), num_seeds=3)
    assert one.folder == Study(("+experiment=mha,gqa",), num_seeds=5).folder
    assert one.folder != Study(("+experiment=mha,gqa", "trainer.max_steps=9")).folder
    assert one.folder.parent == Path("runs", "studies")


def test_choices_of_ones_own_are_in_every_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    optimizer = tmp_path / "my conf" / "optimizer" / "radam.yaml"
    optimizer.parent.mkdir(parents=True)
    optimizer.write_text("_target_: torch.optim.RAdam\nlr: 1.0e-3\n")
    swept: list[list[str]] = []
    monkeypatch.setattr(module, "run_sweep", lambda command: swept.append(command) or 1)
    given = ["study", "+experiment=gqa,mha", "optimizer=radam", "--config-dir"]
    for more in ([], ["--match", "parameters", "--tune", "optimizer.lr=1e-3,1e-2"]):
        with pytest.raises(SystemExit):
            main([*given, "my conf", *more])
    own = f'hydra.searchpath=["file://{tmp_path}/my conf"]'
    assert [command.count(own) for command in swept] == [1, 1]
    with pytest.raises(SystemExit):
        main([*given, "my_conf"])
    assert capsys.readouterr().err.endswith("error: --config-dir (my_conf) is no folder\n")
