"""``packformer doctor --fuzz`` and ``--case``."""

import os
from dataclasses import replace

import pytest

from packformer.attention import KERNELS
from packformer.cli import main
from packformer.tools.doctor import random_calls
from packformer.tools.doctor.processes import run_in_processes

SDPA = KERNELS["sdpa"]


def doctor(*arguments):
    main(["doctor", "--device", "cpu", *arguments])


def test_random_calls_are_counted(capsys):
    doctor("--fuzz", "20")
    out, err = capsys.readouterr()
    assert "20 random calls on cpu, seed 0" in out
    assert "every kernel computed every case" in out
    assert "20 of 20 cases, 0 failed" in err


def test_a_failure_is_printed_with_the_command_that_repeats_it(capsys, monkeypatch):
    def run(q, k, v, layout, scoring, block_mask=None):
        out = SDPA.run(q, k, v, layout, scoring)
        return out * 1.5 if q.shape[1] > 20 else out

    monkeypatch.setitem(KERNELS, "sdpa", replace(SDPA, run=run))
    with pytest.raises(SystemExit):
        doctor("--fuzz", "20")
    out = capsys.readouterr().out
    assert "failed: sdpa errs by more than its rounding, out" in out
    (command,) = [line for line in out.splitlines() if "--case" in line]
    case = command.split("'")[1]
    assert '"lengths": [21]' in case
    with pytest.raises(SystemExit):
        doctor("--kernel", "sdpa", "--case", case)
    assert capsys.readouterr().out.startswith("sdpa: errs by more than its rounding")
    monkeypatch.setitem(KERNELS, "sdpa", SDPA)
    doctor("--kernel", "sdpa", "--case", case)
    assert capsys.readouterr().out.startswith("sdpa: right (roundings: out ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fuzz", "0"], "--fuzz (0) must be a whole number from 1 up"),
        (["--fuzz", "5", "--kernel", "sdap"], "--kernel (sdap) must be one of flash4, xformers"),
        (["--fuzz", "5", "--kernel", "flex"], "--kernel flex: it does not run on cpu"),
        (["--case", "{"], "case ({) cannot be read"),
        (["--kernel", "sdpa"], "--kernel needs --fuzz or --case"),
    ],
)
def test_wrong_arguments_are_told(capsys, arguments, message):
    with pytest.raises(SystemExit):
        doctor(*arguments)
    assert message in capsys.readouterr().err


def test_a_lost_gpu_costs_the_group_and_ends_the_process(monkeypatch):
    def crash(*arguments):
        raise RuntimeError("CUDA error: an illegal memory access")

    def lost():
        raise RuntimeError("CUDA error")

    monkeypatch.setitem(KERNELS, "sdpa", replace(SDPA, run=crash))
    monkeypatch.setattr(random_calls.torch.cuda, "synchronize", lost)
    monkeypatch.setattr(random_calls, "_gpu_is_lost", False)
    cases = next(iter(random_calls.draw_cases(SDPA, "cpu", "0", 8)))
    outcomes = random_calls._run_group("sdpa", cases, "cpu")
    assert len(outcomes) == 8
    assert outcomes[0].reason == "fails: RuntimeError: CUDA error: an illegal memory access"
    assert all("the GPU was lost" in outcome.reason for outcome in outcomes[1:])
    assert random_calls._gpu_is_lost


def die_of_three(number):
    if number == 3:
        os._exit(1)
    return 10 * number


def test_a_process_that_dies_loses_only_its_own_task(forked):
    tasks = [(number,) for number in range(5)]
    results = dict(run_in_processes(die_of_three, tasks, 2))
    assert results == {0: 0, 1: 10, 2: 20, 3: None, 4: 40}
