"""The strategies by which devices train one model, and on how many devices each can."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from packformer.counted import counted
from packformer.run.nearest import nearest
from packformer.settings import shown

_FSDP2 = "packformer.training.FSDP2"
ONE_DEVICE = "single_device"
STRATEGIES = (
    *("auto", "ddp", "ddp_find_unused_parameters_false", "ddp_find_unused_parameters_true"),
    *("fsdp2", ONE_DEVICE),
)
"""Names that ``trainer.strategy`` may be. Lightning has others, which a run cannot use: they start
processes that lack its settings, or need libraries and devices that it is not made for."""


def is_sharded(strategy: Any) -> bool:
    """Whether ``trainer.strategy`` is packformer's FSDP2, by its name or as a group of settings."""
    if isinstance(strategy, Mapping):
        return strategy.get("_target_") == _FSDP2
    return strategy == "fsdp2"


def check_strategy_name(strategy: Any) -> None:
    """Refuses what is neither a name of ``STRATEGIES`` nor a group of settings with a class.

    Raises:
        ValueError: naming those that there are, and what may have been meant.
    """
    if strategy is None or (isinstance(strategy, Mapping) and "_target_" in strategy):
        return
    if isinstance(strategy, str) and strategy in STRATEGIES:
        return
    given = f"trainer.strategy ({shown(strategy)})"
    if isinstance(strategy, str) and strategy.startswith("fsdp"):
        raise ValueError(f"{given} is torch's former way to shard: use fsdp2")
    near = nearest(shown(strategy), STRATEGIES)
    meant = f": did you mean {near}?" if near else ""
    raise ValueError(f"{given} must be one of {', '.join(STRATEGIES)}, or have a _target_{meant}")


def check_strategy_fits(strategy: Any, num_ranks: int) -> None:
    """Refuses one device for a strategy that shards, and several for a strategy of one device.

    Each of several processes would train its own model, on a part of every step's rows.

    Args:
        strategy: ``trainer.strategy``, as text, as a group of settings or None.
        num_ranks: devices of all nodes.

    Raises:
        ValueError: naming the strategy, and what to set instead.
    """
    if is_sharded(strategy) and num_ranks == 1:
        raise ValueError(
            "trainer.strategy (fsdp2) shards a model over several devices, and there is 1: set "
            "trainer.devices, or trainer.strategy=auto"
        )
    if strategy == ONE_DEVICE and num_ranks > 1:
        raise ValueError(_too_few(ONE_DEVICE, 1, num_ranks))


def check_trains_on_all(strategy: Any, num_ranks: int) -> None:
    """Refuses a strategy, once it is built, that does not connect all of a run's devices.

    Args:
        strategy: Lightning's object.
        num_ranks: devices of all nodes.

    Raises:
        ValueError: naming its class, and what to set instead.
    """
    connected = getattr(strategy, "world_size", 1)
    if connected != num_ranks:
        raise ValueError(_too_few(type(strategy).__name__, connected, num_ranks))


def _too_few(name: str, connected: int, num_ranks: int) -> str:
    return (
        f"trainer.strategy ({name}) trains on {counted(connected, 'device')}, and there are "
        f"{num_ranks}: leave trainer.strategy out, or set trainer.devices={connected}"
    )
