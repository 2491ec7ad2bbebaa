"""Jobs that share a process compute and find what they would alone."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from pathlib import Path

import pytest
from forks import Forked, run, sweep

import packformer.run.curve
import packformer.run.train  # noqa: F401

EACH = ("trainer.accelerator=cpu", "callbacks.samples=null")
IN_ONE = ("-m", "hydra.sweep.dir=tree", "hydra/launcher=side_by_side", "hydra.launcher.jobs=1")
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
PROBE = """
import json, os, signal, sys, warnings
from pathlib import Path
import lightning as L
import torch


class Probe(L.Callback):
    def __init__(self, does: str) -> None:
        self.does = does

    def on_fit_start(self, trainer, module) -> None:
        found = {
            "process": os.getpid(),
            "left": os.environ.get("LEFT"),
            "cublas": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
            "cards": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "folder": os.getcwd(),
            "precision": torch.get_float32_matmul_precision(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "threads": torch.get_num_threads(),
            "math": torch.backends.cuda.math_sdp_enabled(),
            "filters": sum(action == "error" for action, *_ in warnings.filters),
            "input": sys.stdin.read(),
        }
        with (Path(trainer.default_root_dir) / "found.jsonl").open("a") as file:
            file.write(json.dumps(found) + "\\n")
        if self.does == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.does == "raise":
            raise RuntimeError("of the probe")

    def on_fit_end(self, trainer, module) -> None:
        if self.does == "change":
            os.environ["LEFT"] = "1"
            os.chdir("/")
            torch.set_float32_matmul_precision("medium")
            torch.backends.cuda.matmul.allow_tf32 = True
            torch.set_num_threads(3)
            torch.backends.cuda.enable_math_sdp(False)
            torch.set_default_dtype(torch.float64)
            warnings.simplefilter("error")
"""


def measured(folder: Path) -> list[object]:
    """All that a run computed: of the summary and of every record."""
    summary = json.loads((folder / "summary.json").read_text())
    with (folder / "metrics.csv").open() as file:
        records = list(csv.DictReader(file))
    kept = ("train/loss", "train/gradient_norm", "val/loss", "val/perplexity")
    assert {"train/loss", "val/loss"} <= records[0].keys()
    return [
        {name: value for name, value in summary.items() if name.startswith("val/")},
        [{name: value for name, value in row.items() if name in kept} for row in records],
    ]


@pytest.mark.slow
def test_jobs_in_any_order_compute_what_they_do_alone(small: list[str], tmp_path: Path) -> None:
    """Bit for bit. The order is not the one that comes to mind, and settings alternate."""
    first, second = ("alibi", "gqa", "mqa"), ("bf16-mixed", "64-true")
    swept = (f"+experiment={','.join(first)}", f"trainer.precision={','.join(second)}")
    in_one = [*EACH, *IN_ONE, *small, *swept]
    code, out = run(sweep, in_one, cwd=tmp_path, env=ONE_THREAD, timeout=600)
    assert code == 0, out
    alone = {}
    for experiment, precision in (("mqa", "bf16-mixed"), ("alibi", "64-true"), ("gqa", "64-true")):
        name = f"{experiment}_precision-{precision}"
        given = [f"+experiment={experiment}", f"trainer.precision={precision}"]
        alone_in = [*EACH, *small, *given, f"hydra.run.dir={name}"]
        code, out = run(sweep, alone_in, cwd=tmp_path, env=ONE_THREAD, timeout=600)
        assert code == 0, out
        alone[name] = measured(tmp_path / name)
    for name, numbers in alone.items():
        (folder,) = tmp_path.glob(f"tree/?_{name}")
        assert measured(folder) == numbers
    assert len({json.dumps(numbers) for numbers in alone.values()}) == 3


@pytest.mark.slow
def test_a_job_finds_nothing_of_the_one_before(small: list[str], tmp_path: Path) -> None:
    (tmp_path / "probe.py").write_text(PROBE)
    swept = ["+callbacks.probe._target_=probe.Probe"]
    swept += ["+callbacks.probe.does=change,look,kill,raise,again"]
    in_one = [*EACH, *IN_ONE, *small, *swept]
    code, out = run(sweep, in_one, cwd=tmp_path, env=ONE_THREAD, timeout=600)
    assert code == 1
    told = [line for line in out.splitlines() if line.startswith("job ")]
    folders = sorted(tmp_path.glob("tree/?_*"))
    assert told[:2] == [f"job {folder.name} finished" for folder in folders[:2]]
    assert "failed: rank 0 was killed (SIGKILL)" in told[2]
    assert told[3].endswith("failed: RuntimeError: of the probe")
    assert told[4] == f"job {folders[4].name} finished"
    found = []
    for folder in folders:
        (line,) = (folder / "found.jsonl").read_text().splitlines()  # no job ran twice
        found.append(json.loads(line))
    processes = [one.pop("process") for one in found]
    assert processes[0] == processes[1] == processes[2]
    assert len(set(processes)) == 3
    assert found == [found[0]] * 5
    assert found[0]["cards"] == found[0]["input"] == ""
    assert found[0]["threads"] == 1
    assert measured(folders[0]) == measured(folders[1]) == measured(folders[4])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_job_and_keeps_finished_ones(
    number: signal.Signals, small: list[str], tmp_path: Path
) -> None:
    swept = ["trainer.max_steps=2,4000", "packing.row_length=128", "trainer.log_every_n_steps=1"]
    in_one = [*EACH, *IN_ONE, *small, *swept]
    with Forked(sweep, in_one, cwd=tmp_path, env=ONE_THREAD) as process:
        assert process.stdout is not None
        try:
            limit = time.monotonic() + 300
            while not list(tmp_path.glob("tree/1_*/checkpoints/last.ckpt")):
                assert process.poll() is None
                assert time.monotonic() < limit
                time.sleep(0.1)
            process.send_signal(number)
            out = process.stdout.read()
            process.wait(60)
        finally:
            process.kill()
    assert process.returncode == 128 + number
    assert "job 0_default_max_steps-2 finished" in out
    assert "interrupted: continue with the same command and hydra.sweep.dir=tree" in out
    (summary,) = tmp_path.glob("tree/*/summary.json")
    assert summary.parent.name == "0_default_max_steps-2"
    assert not list(tmp_path.glob("tree/*/failure.json"))
