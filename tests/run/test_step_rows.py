"""The rows of a step are what the user says, on any number of devices, or one line says why not."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from packformer.run.resume import changed_settings
from packformer.run.step_rows import StepRows, share_rows


@pytest.mark.parametrize(("devices", "accumulated"), [(1, 6), (2, 3), (3, 2), (6, 1)])
def test_devices_share_the_rows_of_a_step(devices: int, accumulated: int) -> None:
    found = share_rows({"rows_per_step": 6, "accumulate_grad_batches": None}, devices)
    assert found == StepRows(devices, accumulated)
    assert found.total == 6


@pytest.mark.parametrize("rows", [None, 6])
def test_accumulation_may_be_given_instead_and_beside_if_both_agree(rows: int | None) -> None:
    found = share_rows({"rows_per_step": rows, "accumulate_grad_batches": 3}, 2)
    assert found == StepRows(2, 3)
    assert str(found) == "6 rows a step: 2 devices x 3 accumulated"


@pytest.mark.parametrize(
    ("settings", "devices", "message"),
    [
        (
            {"rows_per_step": 6},
            4,
            "trainer.rows_per_step (6) cannot be shared equally by 4 devices: use 1, 2, 3 or 6 "
            "devices, or trainer.rows_per_step=4 or 8",
        ),
        (
            {"rows_per_step": 720720},
            17,
            "trainer.rows_per_step (720720) cannot be shared equally by 17 devices: use 13, 14, "
            "15, 16, 18 or 20 devices, or trainer.rows_per_step=720715 or 720732",
        ),
        (
            {"rows_per_step": 2021},
            1024,
            "trainer.rows_per_step (2021) cannot be shared equally by 1,024 devices: use 1, 43 or "
            "47 devices, or ",
        ),
        (
            {"rows_per_step": 1},
            2,
            "trainer.rows_per_step (1) cannot be shared equally by 2 devices: use 1 device, or "
            "trainer.rows_per_step=2",
        ),
        (
            {"rows_per_step": 6, "accumulate_grad_batches": 2},
            2,
            "trainer.rows_per_step (6) is not trainer.accumulate_grad_batches (2) x 2 devices: "
            "write trainer.rows_per_step=4 and leave the other out",
        ),
        ({}, 1, "trainer.rows_per_step (null) must be a whole number from 1 up"),
        ({"rows_per_step": 0}, 1, "trainer.rows_per_step (0) must be a whole number from 1 up"),
        ({"rows_per_step": 2.0}, 1, "trainer.rows_per_step (2.0) must be a whole number from"),
        ({"rows_per_step": True}, 1, "trainer.rows_per_step (true) must be a whole number from"),
        (
            {"rows_per_step": None, "accumulate_grad_batches": 0},
            1,
            "trainer.accumulate_grad_batches (0) must be a whole number from 1 up",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(
    settings: dict[str, Any], devices: int, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        share_rows(settings, devices)


@pytest.mark.parametrize("devices", ["4", "[0,1,2,3]", "'0,1,2,3'", "2 trainer.num_nodes=2"])
def test_a_run_says_so_before_it_reads_data(
    train: Callable, small: list[str], devices: str
) -> None:
    done = train(*small, "trainer.rows_per_step=6", *f"trainer.devices={devices}".split(" "))
    assert done.code == 1
    assert done.err.startswith("error: trainer.rows_per_step (6) cannot be shared equally by 4 ")
    assert done.err.count("\n") == 1


def test_a_run_of_before_counted_the_rows_of_each_device(tmp_path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("trainer:\n  devices: 2\n  accumulate_grad_batches: 8\n")
    now = {"devices": 4, "rows_per_step": 16, "accumulate_grad_batches": None}
    assert changed_settings(tmp_path, {"trainer": now}) == ["trainer.devices: 2 -> 4"]
