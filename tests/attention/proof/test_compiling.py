"""Processes that compile before the proof: what they are given, and how they end."""

import logging
import time

import pytest
import torch

from packformer.attention import KERNELS, Variant
from packformer.attention.proof import compiling as module
from packformer.attention.proof.compiling import Call, Compiling, call_of_layer, calls_of_proof
from packformer.attention.proof.rows import mixed_row, odd_rows, timed_row, usual_rows

_CPU = Variant("cpu", torch.float32, 32, frozenset())
_FEATURES = [(), ("grouped",), ("window", "grouped"), ("alibi", "given_alibi"), ("soft_cap",)]


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(8), raising=False)


@pytest.mark.parametrize("features", _FEATURES)
@pytest.mark.parametrize("head_dim", [32, 64, 128, 256])
def test_calls_are_of_the_proof(features: tuple[str, ...], head_dim: int) -> None:
    variant = Variant("cuda", torch.bfloat16, head_dim, frozenset(features))
    rows = [timed_row(variant), *usual_rows(variant), *odd_rows(variant)]
    calls = calls_of_proof(variant)
    assert all(call.case in rows for call in calls)
    assert [c.case for c in calls if c.deterministic] == [mixed_row(variant)]
    longest = {max(call.case.lengths) for call in calls}
    assert 1 in longest
    assert any(64 < tokens <= 128 for tokens in longest)
    assert len(set(calls)) == len(calls)


@pytest.mark.parametrize("row_length", [1, 2, 1000, 8192, 524_288])
@pytest.mark.parametrize("longest", [1, 4096, 600_000])
def test_the_call_of_a_layer_has_its_heads_and_bound(row_length: int, longest: int) -> None:
    variant = Variant("cuda", torch.bfloat16, 64, frozenset({"grouped", "window"}))
    case = call_of_layer(variant, 14, 2, row_length, longest).case
    assert (case.num_heads, case.num_kv_heads) == (14, 2)
    assert case.variant("cuda") == variant
    assert 1 <= case.num_tokens <= min(row_length, 8192)
    assert case.bound is not None
    assert case.bound >= max(longest, *case.lengths)


def test_processes_run_the_calls(cores: None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    compiling = Compiling()
    calls = [Call(mixed_row(_CPU)), Call(mixed_row(_CPU), deterministic=True)]
    compiling.start(KERNELS["sdpa"], "cpu", calls)
    assert len(compiling._processes) == 2
    compiling.wait()
    assert caplog.messages == ["compile  sdpa, before it is proved"]
    assert not compiling._processes


def test_a_process_that_fails_is_told(cores: None, caplog: pytest.LogCaptureFixture) -> None:
    compiling = Compiling()
    half = Variant("cpu", torch.bfloat16, 32, frozenset())
    calls = [Call(mixed_row(half)), Call(mixed_row(half), deterministic=True)]
    compiling.start(KERNELS["flash4"], "cpu", calls)  # it has no CPU operator
    compiling.wait()
    (told,) = caplog.messages
    beginning = "compile  2 of 2 processes did not end well, so this one compiles: "
    assert told.startswith(beginning + "NotImplementedError: ")


def test_nobody_waits_for_ever(
    cores: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_LONGEST_WAIT", 0.1)
    monkeypatch.setattr(module, "_CODE", "import time; time.sleep(100)")
    compiling = Compiling()
    compiling.start(KERNELS["sdpa"], "cpu", [Call(mixed_row(_CPU))])
    ((process, _),) = compiling._processes
    began = time.monotonic()
    compiling.wait()
    assert time.monotonic() - began < 50
    assert "1 of 1 processes did not end well, so this one compiles: it takes over" in caplog.text
    assert process.poll() is not None


def test_few_cores_compile_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(3), raising=False)
    compiling = Compiling()
    compiling.start(KERNELS["sdpa"], "cpu", [Call(mixed_row(_CPU))])
    assert not compiling._processes
    compiling.wait()


def test_closing_ends_what_runs(cores: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CODE", "import time; time.sleep(100)")
    compiling = Compiling()
    compiling.start(KERNELS["sdpa"], "cpu", [Call(mixed_row(_CPU))])
    ((process, _),) = compiling._processes
    compiling.close()
    assert process.poll() is not None
