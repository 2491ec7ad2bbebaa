"""All devices of a run train one model, or one line says why they cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from lightning.pytorch.strategies import (
    DDPStrategy,
    SingleDeviceStrategy,
    Strategy,
    StrategyRegistry,
)

from packformer.run.build import build_trainer
from packformer.run.device import check_strategy
from packformer.run.strategies import STRATEGIES, check_strategy_name
from packformer.training import DDP, FSDP2

SINGLE = "{_target_: lightning.pytorch.strategies.SingleDeviceStrategy}"


def _strategy(*settings: str) -> Strategy:
    with initialize_config_module("packformer.conf", version_base="1.3"):
        config = compose("config", ["+debug=fast", "data=random", *settings])
    trainer = build_trainer(config, Path("nowhere"), accelerator="cpu", precision="32-true")
    return trainer.strategy


def test_a_strategy_of_one_device_is_refused_on_several() -> None:
    with pytest.raises(ValueError, match="^[^\n]+$") as caught:
        check_strategy("single_device", 2, "32-true")
    assert str(caught.value) == (
        "trainer.strategy (single_device) trains on 1 device, and there are 2: leave "
        "trainer.strategy out, or set trainer.devices=1"
    )
    check_strategy("single_device", 1, "32-true")


def test_so_is_an_object_of_the_users_that_connects_one() -> None:
    settings = ("trainer.devices=2", "trainer.rows_per_step=2", f"trainer.strategy={SINGLE}")
    with pytest.raises(ValueError, match=r"^trainer.strategy \(SingleDeviceStrategy\) trains on"):
        _strategy(*settings)


@pytest.mark.parametrize(
    ("name", "devices", "kind"),
    [
        ("auto", 1, SingleDeviceStrategy),
        ("single_device", 1, SingleDeviceStrategy),
        (SINGLE, 1, SingleDeviceStrategy),
        ("null", 1, SingleDeviceStrategy),
        ("null", 2, DDP),
        ("ddp_find_unused_parameters_false", 2, DDPStrategy),
        ("ddp_find_unused_parameters_true", 2, DDPStrategy),
        ("auto", 2, DDP),
        ("ddp", 1, DDP),
        ("fsdp2", 2, FSDP2),
    ],
)
def test_others_connect_all_devices(name: str, devices: int, kind: type) -> None:
    rows = f"trainer.rows_per_step={devices}"
    found = _strategy(f"trainer.devices={devices}", rows, f"trainer.strategy={name}")
    assert type(found) is kind


@pytest.mark.parametrize("name", [n for n in StrategyRegistry if n not in STRATEGIES])
def test_others_of_lightnings_are_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(ValueError, match="^[^\n]+$") as caught:
        check_strategy_name(name)
    told = str(caught.value)
    assert told.startswith(f"trainer.strategy ({name}) ")
    assert "use fsdp2" in told if "fsdp" in name else ", ".join(STRATEGIES) in told


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("ddp_spawn", "trainer.strategy (ddp_spawn) must be one of auto, ddp, "),
        ("fspd2", "or have a _target_: did you mean fsdp2?"),
        (1, "trainer.strategy (1) must be one of auto, "),
        ({"reduce_dtype": "float32"}, "or have a _target_"),
    ],
)
def test_what_is_no_strategy_is_refused(strategy: object, message: str) -> None:
    with pytest.raises(ValueError, match="^[^\n]+$") as caught:
        check_strategy_name(strategy)
    assert message in str(caught.value)
