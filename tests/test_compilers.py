"""Processes that compile: when they start, what they are given, and how they end."""

import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import torch

from packformer import compilers as module
from packformer.attention import KERNELS, Variant, Verdict, Verdicts
from packformer.attention.proof.compiling import main
from packformer.attention.proof.rows import mixed_row
from packformer.compilers import Compilers, compilers_ahead
from packformer.interruption import SIGNALS

_CPU = Variant("cpu", torch.float32, 32, frozenset())
_ROW = mixed_row(_CPU).to_json()


@pytest.fixture(autouse=True)
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(8), raising=False)


@pytest.fixture
def compilers() -> Iterator[Compilers]:
    compilers = Compilers()
    yield compilers
    compilers.close()


def _processes(compilers: Compilers) -> list[subprocess.Popen[bytes]]:
    prover = [compilers._prover._process] if compilers._prover else []
    return [process for process, _ in (*compilers._waiting, *compilers._working, *prover)]


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_what_is_known_of_kernels_is_so() -> None:
    kept = {name: kernel for name, kernel in KERNELS.items() if kernel.keeps_programs}
    assert set(module.KERNELS) == set(kept)


def test_it_imports_no_torch() -> None:
    code = "import sys, packformer.compilers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_processes_run_the_calls_and_one_more_makes_the_proofs(
    compilers: Compilers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "_at_once", lambda: 1)  # they take seconds to import torch
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path))
    compilers.begin()
    begun = _processes(compilers)
    assert len(begun) == 2
    calls = [(_ROW, False), (_ROW, True), (_ROW, False)]
    assert not compilers.prove("sdpa", str(_CPU))
    compilers.give("sdpa", "cpu", calls, {str(_CPU): _ROW})
    assert _processes(compilers) == begun
    assert compilers.prove("sdpa", str(_CPU))
    assert not compilers.prove("flex", str(_CPU))
    compilers.wait()
    assert caplog.messages == ["compile  sdpa, before it is proved"]
    assert Verdicts("cpu").known(_CPU)["sdpa"].status == "ok"
    assert not _processes(compilers)
    assert not compilers.prove("sdpa", str(_CPU))


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("number", [1, 3, 4, 9])
def test_each_call_is_given_once(
    compilers: Compilers, number: int, ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CODE", "import sys; print(sys.stdin.read())")
    if ahead:
        compilers.begin()
    calls = [(f"row {n}", n % 2 == 0) for n in range(number)]
    compilers.give("sdpa", "cpu", calls, {"one": "row 1", "two": "row 2"})
    compilers.dismiss()
    assert len(compilers._working) == min(number, 4) + 1
    tasks = []
    for process, told in compilers._working:
        process.wait()
        told.seek(0)
        tasks.append(json.loads(told.read()))
    assert all((task["kernel"], task["device_type"]) == ("sdpa", "cpu") for task in tasks)
    assert tasks.pop()["proofs"] == ["row 1", "row 2"]
    assert sorted(tuple(call) for task in tasks for call in task["calls"]) == calls


@pytest.mark.parametrize("ahead", [False, True])
def test_the_proof_begins_when_all_programs_are_compiled(
    compilers: Compilers, ahead: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the slowest takes: one of them ends when it is let."""
    code = f"""
import json, pathlib, sys, time
task, folder = json.loads(sys.stdin.read()), pathlib.Path({str(tmp_path)!r})
if "proofs" in task:
    (folder / "began").write_text(str((folder / "slow").exists()))
elif task["calls"] == [["slow", False]]:
    while not (folder / "go").exists():
        time.sleep(0.01)
    (folder / "slow").touch()
"""
    monkeypatch.setattr(module, "_CODE", code.replace("{", "{{").replace("}", "}}"))
    if ahead:
        compilers.begin()
    compilers.give("sdpa", "cpu", [("quick", False), ("slow", False)], {"one": "row"})
    compilers.dismiss()
    quick = compilers._working[0].process
    quick.wait()
    assert compilers._working[-1].process.poll() is None
    (tmp_path / "go").touch()
    compilers.wait()
    assert (tmp_path / "began").read_text() == "True"


def test_those_without_a_call_end(
    compilers: Compilers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_CODE", "import sys, time; sys.stdin.read() or time.sleep(100)")
    compilers.begin()
    processes = _processes(compilers)
    compilers.give("sdpa", "cpu", [(_ROW, False)], {})
    compilers.dismiss()
    assert sum(process.poll() is not None for process in processes) >= 3
    compilers.wait()
    assert all(process.poll() is not None for process in processes)
    assert not _warnings(caplog)


def test_a_process_that_is_given_nothing_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when its parent is gone."""
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    main()


def test_a_call_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """On one line: the last words of a process are what the run tells."""
    task = {"kernel": "sdpa", "device_type": "meta", "calls": [(_ROW, False)]}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(task)))
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    with pytest.raises(SystemExit, match=r"^RuntimeError: META.*$"):
        main()


def test_a_proof_without_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves no verdict, so the run proves by itself."""
    task = {"kernel": "sdpa", "device_type": "cpu", "proofs": [_ROW]}
    verdict = Verdict("no memory", "fails: OutOfMemoryError: 1 GiB", {}, {}, False, None)
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(task)))
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    monkeypatch.setattr(Verdicts, "of", lambda *_: verdict)
    with pytest.raises(SystemExit, match=r"^fails: OutOfMemoryError: 1 GiB$"):
        main()


def test_processes_that_died_before_their_calls_are_told(
    compilers: Compilers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_CODE", "import sys; sys.exit('no memory')")
    compilers.begin()
    for process in _processes(compilers):
        process.wait()
    compilers.give("sdpa", "cpu", [(_ROW, False), (_ROW, True)], {})
    compilers.wait()
    (told,) = _warnings(caplog)
    ended = "3 of 3 processes did not end well"
    assert told == f"compile  {ended}, so this one does their work: no memory"


def test_nobody_waits_for_ever(
    compilers: Compilers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_LONGEST_WAIT", 0.1)
    monkeypatch.setattr(module, "_CODE", "import time; time.sleep(100)")
    compilers.give("sdpa", "cpu", [(_ROW, False)], {})
    processes = _processes(compilers)
    began = time.monotonic()
    compilers.wait()
    assert time.monotonic() - began < 50
    assert "2 of 2 processes did not end well" in caplog.text
    assert "it takes over" in caplog.text
    assert all(process.poll() is not None for process in processes)


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="Windows has none")
def test_they_work_on_when_a_signal_reaches_all_processes_of_a_run(
    compilers: Compilers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As Ctrl-C does, after which the process that trains finishes its step."""
    monkeypatch.setattr(module, "_CODE", "import sys, time; sys.stdin.read(); time.sleep(0.5)")
    compilers.begin()
    compilers.give("sdpa", "cpu", [(_ROW, False)], {})
    compilers.dismiss()
    for process in _processes(compilers):
        for number in SIGNALS:
            process.send_signal(number)
    compilers.wait()
    assert not _warnings(caplog)


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_machine_that_starts_no_further_process_compiles_by_itself(
    compilers: Compilers, number: int, ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves nothing open."""
    start, left = module._started, [None] * number

    def started(*args: Any, **kwargs: Any) -> Any:
        if not left:
            raise OSError("no process can be started")
        left.pop()
        return start(*args, **kwargs)

    monkeypatch.setattr(module, "_CODE", "import sys; sys.stdin.read()")
    monkeypatch.setattr(module, "_started", started)
    before = _open_files()
    if ahead:
        compilers.begin()
    compilers.give("sdpa", "cpu", [(_ROW, False), (_ROW, True)], {str(_CPU): _ROW})
    assert not compilers.prove("sdpa", str(_CPU))
    processes = _processes(compilers)
    assert len(processes) == number
    compilers.wait()
    assert all(process.poll() is not None for process in processes)
    assert _open_files() == before


def _open_files() -> set[str]:
    return set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()


def test_nothing_is_compiled_that_cannot_be_kept(
    compilers: Compilers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that trains would do the same again."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path / "file" / "cache"))
    compilers.give("sdpa", "cpu", [(_ROW, False)], {str(_CPU): _ROW})
    assert not _processes(compilers)
    assert not compilers.prove("sdpa", str(_CPU))


def test_few_cores_compile_by_themselves(
    compilers: Compilers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(3), raising=False)
    compilers.begin()
    compilers.give("sdpa", "cpu", [(_ROW, False)], {})
    assert not _processes(compilers)
    compilers.wait()


class TestAhead:
    """When they start with the command."""

    @pytest.fixture(autouse=True)
    def card(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A machine with a GPU where FlashAttention-4 is installed and no kernel was proved."""
        monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        monkeypatch.setattr(module, "_CODE", "import time; time.sleep(100)")
        found = ModuleSpec("flash_attn", None)
        monkeypatch.setattr(
            "importlib.util.find_spec", lambda name: found if name == "flash_attn" else None
        )

    @staticmethod
    def _number(config: dict[str, Any]) -> int:
        with compilers_ahead(config) as compilers:
            processes = _processes(compilers)
        assert all(process.poll() is not None for process in processes)
        return len(processes)

    @pytest.mark.parametrize("kernel", ["auto", "flash4"])
    @pytest.mark.parametrize("accelerator", ["auto", "gpu", "cuda"])
    def test_a_machine_without_proofs(self, kernel: str, accelerator: str) -> None:
        config = {"trainer": {"accelerator": accelerator}, "attention": {"kernel": kernel}}
        assert self._number(config) == 5

    @pytest.mark.parametrize(
        ("kernel", "accelerator"), [("auto", "cpu"), ("xformers", "auto"), ("flex", "gpu")]
    )
    def test_a_run_that_needs_none(self, kernel: str, accelerator: str) -> None:
        config = {"trainer": {"accelerator": accelerator}, "attention": {"kernel": kernel}}
        assert self._number(config) == 0

    def test_a_machine_with_proofs(self, tmp_path: Path) -> None:
        config = {"trainer": {"accelerator": "auto"}, "attention": {"kernel": "auto"}}
        (tmp_path / "attention").mkdir()
        (tmp_path / "attention" / "cpu-123.json").write_text("{}")
        assert self._number(config) == 5
        (tmp_path / "attention" / "cuda-123.json").write_text("{}")
        assert self._number(config) == 0

    def test_a_cache_that_cannot_be_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path / "file" / "cache"))
        config = {"trainer": {"accelerator": "auto"}, "attention": {"kernel": "auto"}}
        assert self._number(config) == 0

    def test_a_machine_without_a_card(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        config = {"trainer": {"accelerator": "auto"}, "attention": {"kernel": "auto"}}
        assert self._number(config) == 0

    def test_a_machine_without_the_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        config = {"trainer": {"accelerator": "auto"}, "attention": {"kernel": "auto"}}
        assert self._number(config) == 0
