"""The devices asked for are there, or one line says how many are."""

from __future__ import annotations

import pytest

from packformer.run.device import num_devices, resolve_float8
from packformer.training.float8 import Float8


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


@pytest.mark.parametrize("devices", [-1, "-1", [0, 1], "0,1"])
def test_what_only_gpus_are_is_refused_on_a_cpu(devices: object) -> None:
    with pytest.raises(ValueError, match="^[^\n]+$") as caught:
        num_devices(devices, "cpu")
    assert str(caught.value) == (
        f"trainer.devices ({devices}) must be a number from 1 up on a CPU: -1 and lists are of GPUs"
    )


@pytest.fixture
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    capability, name = request.param
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: capability)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: name)


@pytest.mark.parametrize(
    "gpu", [((8, 9), "L4"), ((9, 0), "H100"), ((10, 0), "B200")], indirect=True
)
def test_float8_is_for_gpus_that_have_it(gpu: None) -> None:
    assert resolve_float8(True, "cuda", "bf16-mixed", 512) == Float8(512)
    assert resolve_float8("emulate", "cuda", "bf16-true", 512) == Float8(512, emulate=True)
    assert resolve_float8("emulate", "cpu", "32-true", 512) == Float8(512, emulate=True)
    assert resolve_float8(False, "cuda", "16-mixed", 500) is None


@pytest.mark.parametrize("gpu", [((8, 0), "NVIDIA A100")], indirect=True)
@pytest.mark.parametrize(
    ("asked", "accelerator", "precision", "message"),
    [
        (True, "cuda", "bf16-mixed", "needs a GPU of compute capability 8.9 or newer, and NVIDIA "
         "A100 has 8.0: leave it out"),
        (True, "cpu", "bf16-mixed", "needs a GPU of compute capability 8.9 or newer: on a CPU use "
         "emulate, which only rounds, or leave it out"),
        ("emulate", "cuda", "16-mixed", "does not go with trainer.precision=16-mixed: "
         "use bf16-mixed"),
        ("emulate", "cpu", "64-true", "does not go with trainer.precision=64-true: use bf16-mixed"),
        ("rowwise", "cuda", "bf16-mixed", "must be true, false or emulate"),
    ],
)  # fmt: skip
def test_float8_that_cannot_be_is_one_line(
    gpu: None, asked: bool | str, accelerator: str, precision: str, message: str
) -> None:
    with pytest.raises(ValueError, match="^[^\n]+$") as caught:
        resolve_float8(asked, accelerator, precision, 512)
    assert str(caught.value) == f"trainer.float8 ({str(asked).lower()}) {message}"


def test_float8_without_torchao_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packformer.run.device.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="^[^\n]+$") as caught:
        resolve_float8(True, "cuda", "bf16-mixed", 512)
    assert str(caught.value) == (
        "trainer.float8 (true) needs torchao, which is not installed: pip install '.[fp8]'"
    )
