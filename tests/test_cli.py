"""The packformer command."""

import csv
import json
import re
from dataclasses import replace

import pytest
import torch

from packformer.attention import KERNELS, choice
from packformer.cli import main


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Verdicts of planted kernels must not outlive a test."""
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path / "cache"))


def test_doctor_prints_json_and_succeeds(capsys):
    main(["doctor", "--device", "cpu", "--head-dim", "16", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["variant"] == "cpu float32 16"
    assert {"machine", "tolerance", "findings", "auto"} <= found.keys()


def test_doctor_fails_where_a_kernel_is_wrong(monkeypatch, capsys):
    right = KERNELS["sdpa"]
    wrong = replace(right, run=lambda *args: right.run(*args) * 1.001)
    monkeypatch.setitem(KERNELS, "sdpa", wrong)
    monkeypatch.setattr(choice, "_BY_PREFERENCE", (wrong,))
    with pytest.raises(SystemExit) as caught:
        main(["doctor", "--device", "cpu", "--head-dim", "16"])
    assert caught.value.code == 1
    assert "wrong: sdpa on mha" in capsys.readouterr().out


def test_bench_attention_runs(tmp_path, capsys):
    folder = tmp_path / "out"
    main(
        f"bench attention --device cpu --heads 2 --head-dim 8 --tokens 32 --documents 10 "
        f"--variants plain --output {folder}".split()
    )
    assert (folder / "attention.csv").is_file()
    assert str(folder) in capsys.readouterr().out


def test_bench_loader_tells_speed_and_fill(capsys):
    sizes = ["--rows", "8", "--row-length", "256", "--max-document-length", "128"]
    main(["bench", "loader", *sizes, "--workers", "0", "1"])
    out = capsys.readouterr().out
    assert "8 rows of 256 tokens, documents of at most 128" in out
    for words in (r"packer alone +[\d,]+ tokens/s +[\d.]+% full", r"0 workers +[\d,]+ tokens/s"):
        assert re.search(words, out)
    assert "loader, 1 workers" in out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("bench loader --rows 0", "--rows (0) must be a whole number from 1 up"),
        ("bench attention --device cpu --heads 3 --kv-heads 2", "heads (3) must be divisible by"),
        ("doctor --head-dim 0", "--head-dim (0) must be at least 1"),
    ],
)
def test_bad_input_is_one_line(command, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main(command.split())
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_absent_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["doctor", "--device", "cuda"])
    assert "sees no CUDA GPU" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["", "bench", "unknown"])
def test_what_is_missing_is_said_with_the_usage(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main(command.split())
    assert caught.value.code == 2
    assert "usage: packformer" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere"], "data.path /nowhere does not exist"),
        (["--row-length", "1"], "row_length (1) must be a whole number from 2 up"),
        (["--batch", "0"], "batch (0) must be"),
        (["--layers", "0"], "--layers (0) must be"),
    ],
)
def test_plan_names_what_is_wrong(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["plan", *arguments])
    assert f"error: {message}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments", [["doctor", "more"], ["bench", "step", "gqa", "--stepz", "3"], ["plan", "a", "b"]]
)
def test_what_is_not_known_is_refused(capsys, arguments):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "unrecognized arguments: " in capsys.readouterr().err
