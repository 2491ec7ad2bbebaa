"""``packformer bench step``, from end to end on CPU."""

import csv
from functools import partial

import pytest
import torch

from packformer.cli import main
from packformer.tools.bench.step.bench import StepBench
from packformer.tools.bench.step.measure import Work

pytestmark = pytest.mark.usefixtures("blank")

SMALL = [
    "model.num_layers=1",
    "model.width=32",
    "model.num_heads=2",
    "data.vocab_size=128",
    "packing.row_length=64",
    "packing.max_document_length=32",
    "data.mean_length=12",
]


@pytest.mark.parametrize("more", [[], ["trainer.precision=bf16-true", "attention=mqa"]])
def test_our_step_is_measured_bare_and_in_lightning(tmp_path, monkeypatch, capsys, more):
    monkeypatch.chdir(tmp_path)
    options = ["--steps", "4", "--warmup", "1", "--no-peers"]
    main(["bench", "step", "gqa", *SMALL, *options, *more])
    out = " ".join(capsys.readouterr().out.split())  # a title is broken where the table ends
    assert "one row of 64 tokens a step, documents of at most 32" in out
    assert "data wait" in out
    with (tmp_path / "step" / "step.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["packformer, bare loop", "packformer, Lightning"]
    assert all(float(row["tokens_per_second"]) > 0 for row in rows)
    assert [row["left_out"] for row in rows] == ["", ""]
    assert {path.name for path in (tmp_path / "step").iterdir()} == {"step.csv", "step.png"}


def test_other_libraries_are_measured_where_they_are_installed(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    # What torch makes of their graphs is not ours, and takes long.
    compile_quickly = partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr("packformer.tools.bench.step.peers.torch.compile", compile_quickly)
    main(
        ["bench", "step", "gqa", *SMALL, "--steps", "2", "--warmup", "0", "--output", str(tmp_path)]
    )
    with (tmp_path / "step.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    for name in ("concatenated", "padded"):
        assert float(rows[f"Hugging Face, {name}"]["tokens_per_second"]) > 0


def peers_beside(monkeypatch, capsys, folder, *settings):
    """Rows of a benchmark whose other libraries are not run, and what was printed."""
    for name in ("huggingface_step", "litgpt_step"):
        monkeypatch.setattr(
            f"packformer.tools.bench.step.bench.{name}", lambda **_: lambda: Work(tokens=1)
        )
    options = ["--steps", "1", "--warmup", "0", "--output", str(folder)]
    main(["bench", "step", *settings[:1], *SMALL, *settings[1:], *options])
    with (folder / "step.csv").open() as file:
        rows = list(csv.DictReader(file))
    return rows, " ".join(capsys.readouterr().out.split())


def test_what_was_measured_is_shown_where_no_other_library_has_such_layers(
    monkeypatch, capsys, tmp_path
):
    rows, out = peers_beside(monkeypatch, capsys, tmp_path, "local_global", "model.num_layers=2")
    ours, theirs = rows[:2], rows[2:]
    assert all(float(row["tokens_per_second"]) > 0 for row in ours)
    assert len(theirs) == 4
    for row in theirs:
        assert row["left_out"].startswith("the layers differ")
    assert "use layers=alike" in out


def test_how_the_model_of_other_libraries_differs_is_told(monkeypatch, capsys, tmp_path):
    rows, out = peers_beside(monkeypatch, capsys, tmp_path, "alibi", "attention.window=16")
    differs = "without the window of 16, plain rotary instead of ALiBi"
    assert [row["differs"] for row in rows] == ["", "", *[differs] * 4]
    assert "another model" in out


def test_padded_documents_are_left_out_where_ours_see_each_other(monkeypatch, capsys, tmp_path):
    rows, _ = peers_beside(monkeypatch, capsys, tmp_path, "across_documents")
    *concatenated, padded = rows[2:]
    assert padded["name"] == "Hugging Face, padded"
    assert padded["left_out"].startswith("attention.across_documents (true): padded documents do")
    assert [row["left_out"] + row["differs"] for row in concatenated] == [""] * 3


def test_layers_that_alone_see_across_documents_are_told(monkeypatch, capsys, tmp_path):
    alike = ("model.num_layers=2", "layers.S.attention.window=null")
    across = "+layers.L.attention.across_documents=true"
    rows, _ = peers_beside(monkeypatch, capsys, tmp_path, "local_global", *alike, across)
    assert [row["left_out"].partition(",")[0] for row in rows[2:]] == ["the layers differ"] * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "there is no experiment=nothing: "),
        (["gqa", "model.widht=3"], "widht"),
        (["gqa", "--steps", "0"], "--steps (0) must be a whole number from 1 up"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["bench", "step", *arguments])
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_steps_must_be_counted():
    with pytest.raises(ValueError, match=r"warmup \(-1\) must be a whole number from 0 up"):
        StepBench("gqa", warmup=-1)
