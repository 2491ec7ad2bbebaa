"""Jobs of a sweep in processes of their own: side by side, over several devices, and once more."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from forks import run, sweep
from omegaconf import OmegaConf

from packformer.command_line import imports, main
from packformer.sweeps.side_by_side import SideBySide

COMMAND = (sys.executable, "-m", "train", "-m", "hydra.sweep.dir=tree", "trainer.accelerator=cpu")
SIDE_BY_SIDE = ("hydra/launcher=side_by_side", "hydra.launcher.jobs=2")
SMALLER = ("packing.row_length=128", "trainer.validate_every_n_steps=50", "callbacks.samples=null")
STEPS = "trainer.max_steps=50,250"


def rows(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "tree" / "sweep.csv").open() as file:
        return {row["job"]: row for row in csv.DictReader(file)}


def wait_until(true: Callable[[], object], seconds: float) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.1)


def processes_of(folder: Path) -> list[str]:
    found = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True)
    return [line for line in found.stdout.splitlines() if f"{folder}/tree" in line]


def test_a_killed_sweep_goes_on_in_its_folder(small: list[str], tmp_path: Path) -> None:
    command = [*COMMAND, *SIDE_BY_SIDE, *small, *SMALLER, STEPS]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        try:
            wait_until(
                lambda: (
                    list(tmp_path.glob("tree/0_*/summary.json"))
                    and list(tmp_path.glob("tree/1_*/checkpoints/last.ckpt"))
                ),
                300,
            )
        finally:
            process.kill()
    wait_until(lambda: not processes_of(tmp_path), 5)
    done, stopped = sorted(tmp_path.glob("tree/?_*"))
    assert [done.name, stopped.name] == ["0_default_max_steps-50", "1_default_max_steps-250"]
    before = (done / "config.yaml").stat().st_mtime_ns
    assert not (stopped / "summary.json").exists()

    code, out = run(sweep, command[3:], cwd=tmp_path, timeout=300)
    assert code == 0, out
    assert out.startswith("1 job finished before\njob 1_default_max_steps-250 finished\n")
    assert (done / "config.yaml").stat().st_mtime_ns == before
    assert "resumed  after step" in (stopped / "output.txt").read_text()
    table = rows(tmp_path)
    assert list(table) == [done.name, stopped.name]
    assert [row["steps"] for row in table.values()] == ["50", "250"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tree"]


def test_a_job_over_several_devices_has_a_process_of_its_own(
    small: list[str], tmp_path: Path
) -> None:
    """Which starts the other ranks, if the rows can be shared."""
    several = ("trainer.devices=2", "trainer.rows_per_step=3", "seed=1")
    done = subprocess.run(
        [*COMMAND, *small, *several], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    message = "trainer.rows_per_step (3) cannot be shared equally by 2 devices"
    assert done.stderr.count(f"error: {message}") == 1
    (row,) = rows(tmp_path).values()
    assert row["error"].startswith(message)
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


def test_a_job_for_which_torch_was_imported_otherwise_has_a_process_of_its_own(
    train: Callable, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is not given what the job before left in the environment."""
    found: list[tuple[str, bool]] = []

    def run_jobs(jobs: list, places: list[dict[str, str]]) -> list[float]:
        found.extend((job.folder.name, "PL_GLOBAL_SEED" in os.environ) for job in jobs)
        return [1.0] * len(jobs)

    monkeypatch.setattr(imports, "_settled", [False])
    monkeypatch.setattr(main, "run_jobs", run_jobs)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    swept = "deterministic=false,true"
    assert train("-m", swept, "hydra.sweep.dir=tree", "trainer.max_steps=1", *small).code == 0
    assert (tmp_path / "tree" / "0_default_deterministic-False" / "summary.json").is_file()
    assert found == [("1_default_deterministic-True", False)]


def test_a_job_that_finished_is_not_run_again(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    command = ("-m", "seed=1", "hydra.sweep.dir=tree", *small)
    assert train(*command).code == 0
    again = train(*command)
    assert again.code == 0
    assert again.out.startswith("job 0_default finished before\n")
    assert again.err == ""


@pytest.mark.parametrize(
    ("devices", "jobs", "groups"),
    [(1, None, ["0", "2", "3", "5"]), (2, None, ["0,2", "3,5"]), (1, 2, ["0", "2"])],
)
def test_each_job_has_cards_of_its_own(devices, jobs, groups, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2,3,5")
    config = OmegaConf.create({"trainer": {"accelerator": "auto", "devices": devices}})
    places = SideBySide(jobs)._places(config)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in places] == groups


def test_more_jobs_than_cards_are_refused(monkeypatch) -> None:
    config = OmegaConf.create({"trainer": {"accelerator": "auto", "devices": 2}})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    message = r"hydra.launcher.jobs \(2\) x trainer.devices \(2\) is more than the 3 GPUs"
    with pytest.raises(ValueError, match=message):
        SideBySide(2)._places(config)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ValueError, match="where there is no GPU: write hydra.launcher.jobs=2"):
        SideBySide()._places(config)
    assert (
        SideBySide(3)._places(config) == [{"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}] * 3
    )
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
