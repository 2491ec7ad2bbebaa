"""``packformer bench devices`` runs whole trainings and compares their rates."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import pytest
from forks import Forked, sweep

import packformer.run.train  # noqa: F401  # what the forked run imports
from packformer.tools.bench.devices import bench
from packformer.tools.bench.devices.bench import DevicesBench, command, run_devices_bench


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"records": 1}, r"--records \(1\) must be at least 2"),
        ({"devices": (0, 1)}, r"--devices \(0\) must be at least 1"),
        ({"rows": (-1,)}, r"--rows \(-1\) must be at least 1"),
    ],
)
def test_numbers_that_measure_nothing_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DevicesBench("gqa", **options)


def test_every_run_has_as_many_rows_per_device(tmp_path: Path) -> None:
    given = DevicesBench("gqa", ("+debug=fast",), records=3, rows_per_record=5)
    line = command(given, tmp_path, rows=2, devices=4)
    wanted = {
        *("trainer.devices=4", "trainer.rows_per_step=8", "trainer.max_steps=9"),
        *("trainer.log_every_n_steps=3", "data=random", "+debug=fast"),
    }
    assert wanted <= set(line)
    own_data = command(DevicesBench("gqa", ("data=stdlib",)), tmp_path, rows=1, devices=1)
    assert "data=random" not in own_data


def measured(folder: Path, *overrides: str) -> dict[str, str]:
    given = DevicesBench(
        "gqa",
        ("+debug=fast", "trainer.accelerator=cpu", *overrides),
        devices=(1,),
        rows=(1,),
        records=2,
        rows_per_record=1,
    )
    run_devices_bench(given, folder)
    with (folder / "devices.csv").open() as file:
        (row,) = csv.DictReader(file)
    return row


@pytest.fixture
def forked_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run imports nothing."""

    def forked(arguments: list[str], stdout: IO[str], stderr: IO[str]) -> Forked:
        assert arguments[:3] == [sys.executable, "-m", "train"]
        assert stderr is stdout
        return Forked(sweep, arguments[3:], cwd=Path.cwd(), output=stdout.fileno())

    monkeypatch.setattr(bench, "subprocess", SimpleNamespace(Popen=forked))


@pytest.mark.usefixtures("forked_run")
def test_a_run_is_measured(tmp_path: Path) -> None:
    row = measured(tmp_path)
    assert float(row["tokens_per_second"]) > 0
    assert row["left_out"] == ""
    assert (tmp_path / "1x1" / "summary.json").is_file()


def test_a_run_that_fails_is_left_out_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = measured(tmp_path, "model.width=-1")
    assert row["tokens_per_second"] == ""
    assert row["left_out"].startswith("error: model.width (-1) must be a whole")
    assert "width (-1)" in capsys.readouterr().out
