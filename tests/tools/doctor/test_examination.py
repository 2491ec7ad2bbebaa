"""The doctor's examination, on CPU."""

import json
import os
from dataclasses import replace
from io import StringIO

import pytest
import torch
from rich.console import Console

from packformer.attention import KERNELS, Variant, choice
from packformer.tools.doctor import examination
from packformer.tools.doctor.examination import VARIANTS, examine, print_examination


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Verdicts of planted kernels must not outlive a test."""
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path / "cache"))


def shown(found):
    console = Console(file=StringIO(), width=150)
    print_examination(found, console)
    return console.file.getvalue()


def test_every_kernel_and_variant_is_examined():
    found = examine("cpu", torch.float32, 16)
    assert {f.variant for f in found.findings} == set(VARIANTS) == set(found.auto)
    assert len(found.findings) == len(VARIANTS) * (len(KERNELS) - 1)
    ours = [f for f in found.findings if f.kernel == "sdpa"]
    for finding in ours:
        if finding.variant == "gqa score function":
            assert finding.unsupported == "has no score function"
        else:
            assert finding.verdict.status == "ok"
            assert finding.verdict.isolated
    assert not found.wrong
    assert found.auto["gqa alibi"].startswith("sdpa: proved")
    assert found.auto["gqa score function"] == "none"
    assert json.loads(json.dumps(found.to_dict()))["tolerance"] == 1e-5
    text = shown(found)
    assert "flash4 runs on cuda only" in text
    assert "every kernel computes what it claims" in text


def die(name, variant):
    os._exit(1)


CELL = (Variant("cpu", torch.float32, 16, frozenset({"grouped"})), KERNELS["sdpa"])


def test_kernels_are_proved_in_processes():
    ((found, verdict),) = examination._in_processes([CELL], 1)
    assert found == CELL
    assert verdict.status == "ok"
    assert verdict.isolated


def test_a_process_that_dies_is_a_kernel_that_fails(monkeypatch, forked):
    monkeypatch.setattr(examination, "_prove_named", die)
    verdicts = [verdict for _, verdict in examination._in_processes([CELL, CELL], 1)]
    assert [v.status for v in verdicts] == ["failed", "failed"]
    assert verdicts[0].reason == "fails: its process died"


@pytest.mark.parametrize("head_dim", [8, 24])
def test_any_head_size(head_dim, monkeypatch):
    # The other variants at other sizes: the random calls of attention/proof/test_fuzz.py.
    few = ("mha", "gqa alibi window", "gqa learned bias")
    monkeypatch.setattr(examination, "VARIANTS", {name: VARIANTS[name] for name in few})
    found = examine("cpu", torch.float64, head_dim)
    assert [f.verdict.status for f in found.findings if f.kernel == "sdpa"] == ["ok"] * 3


def test_a_wrong_kernel_is_named(monkeypatch):
    few = ("mha", "gqa", "gqa alibi window", "gqa score function")
    monkeypatch.setattr(examination, "VARIANTS", {name: VARIANTS[name] for name in few})
    right = KERNELS["sdpa"]

    def run(q, k, v, layout, scoring, block_mask=None):
        grouped = q.shape[2] != k.shape[2]
        return right.run(q, k, v, layout, scoring) * (1.001 if grouped else 1)

    wrong = replace(right, run=run)
    monkeypatch.setitem(KERNELS, "sdpa", wrong)
    monkeypatch.setattr(choice, "BY_PREFERENCE", (wrong,))
    found = examine("cpu", torch.float32, 16)
    assert {f.variant for f in found.wrong} == {
        name for name in few if "grouped" in VARIANTS[name]
    } - {"gqa score function"}
    assert found.auto["gqa"] == "none"
    assert "wrong: sdpa on gqa errs by out 1.0e-03" in shown(found)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_how_each_kernel_of_the_device_was_loaded_is_told(monkeypatch, device):
    for kernel in KERNELS.values():
        if kernel.name != "sdpa":
            monkeypatch.setitem(KERNELS, kernel.name, replace(kernel, lacks=lambda: "lacks all"))
    another = replace(KERNELS["sdpa"], name="another", devices=("cuda",))
    monkeypatch.setitem(KERNELS, "another", another)
    told = examination._loaded(device)
    assert set(told) == {k.name for k in KERNELS.values() if device in k.devices} - {"reference"}
    if device == "cuda":
        assert told["another"] == "loaded"
        assert told["flash4"] == "lacks all"
    else:
        assert told["sdpa"].startswith("torch's own kernels, ")
