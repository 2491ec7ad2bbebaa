"""The packformer command."""

import json
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


@pytest.mark.parametrize(
    ("command", "message"),
    [
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
