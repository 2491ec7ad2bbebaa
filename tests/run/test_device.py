"""The devices asked for are there, or one line says how many are."""

from __future__ import annotations

import pytest

from packformer.run.device import num_devices


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = "lightning.fabric.utilities.device_parser._get_all_available_gpus"
    monkeypatch.setattr(parser, lambda **_: [0, 1])
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    counting = "lightning.pytorch.accelerators.cuda.num_cuda_devices"
    monkeypatch.setattr(counting, lambda: 2)


@pytest.mark.parametrize(
    ("devices", "number"), [(1, 1), (2, 2), ("2", 2), ([1], 1), ("0,1", 2), ("auto", 2), (-1, 2)]
)
def test_devices_are_counted(two_gpus: None, devices: object, number: int) -> None:
    assert num_devices(devices, "cuda") == number


@pytest.mark.parametrize("devices", [4, "3", [0, 2], "0,5", [0, 0]])
def test_more_than_there_are_is_refused_with_their_number(two_gpus: None, devices: object) -> None:
    with pytest.raises(ValueError, match="^[^\n]+$") as caught:
        num_devices(devices, "cuda")
    told = f"trainer.devices ({devices}): this machine has 2 GPUs, and each is used once at most"
    assert str(caught.value) == told


def test_a_cpu_is_as_many_devices_as_asked_for() -> None:
    assert num_devices(3, "cpu") == 3
