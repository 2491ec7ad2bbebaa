"""``packformer doctor``."""

import json
from dataclasses import replace

import pytest
import torch

from packformer.attention import KERNELS, choice
from packformer.cli import main
from packformer.tools.doctor.examination import VARIANTS


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Verdicts of planted kernels must not outlive a test."""
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def few_variants(monkeypatch):
    """All of them are examined in test_examination.py."""
    few = {name: VARIANTS[name] for name in ("mha", "gqa alibi")}
    monkeypatch.setattr("packformer.tools.doctor.examination.VARIANTS", few)


def test_doctor_prints_json_and_succeeds(capsys):
    main(["doctor", "--device", "cpu", "--head-dim", "16", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["variant"] == "cpu float32 16"
    assert {"machine", "tolerance", "findings", "auto"} <= found.keys()


def test_doctor_fails_where_a_kernel_is_wrong(monkeypatch, capsys):
    right = KERNELS["sdpa"]
    wrong = replace(right, run=lambda *args: right.run(*args) * 1.001)
    monkeypatch.setitem(KERNELS, "sdpa", wrong)
    monkeypatch.setattr(choice, "BY_PREFERENCE", (wrong,))
    with pytest.raises(SystemExit) as caught:
        main(["doctor", "--device", "cpu", "--head-dim", "16"])
    assert caught.value.code == 1
    assert "wrong: sdpa on mha" in capsys.readouterr().out


@pytest.mark.platform
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_absent_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["doctor", "--device", "cuda"])
    assert "sees no CUDA GPU" in capsys.readouterr().err
