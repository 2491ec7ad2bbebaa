"""What there is to be set: groups, their choices, and the settings of what was chosen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from packformer.command_line.grammar import parse, read_value


@dataclass(frozen=True)
class Known:
    """What there is to be set beside some overrides.

    Attributes:
        groups: choices of each group.
        settings: values in the composed configuration, not resolved, and what holds them.
        overrides: the command line's; of a sweep, those of the first job.
    """

    groups: dict[str, list[str]]
    settings: dict[str, Any]
    overrides: Sequence[str]

    @property
    def keys(self) -> list[str]:
        """Names of the settings, sorted."""
        return sorted(self.settings)

    @property
    def added(self) -> list[str]:
        """Groups that are off unless a choice is added with a ``+``."""
        return [group for group in self.groups if group not in self.settings]

    def value(self, name: str) -> Any:
        """Of a setting: the command line's, else the composed one; None if there is none."""
        given = value_of(name, self.overrides[::-1])
        return self.settings.get(name) if given is None else read_value(given)


def known_beside(overrides: Sequence[str]) -> Known:
    """Of the configuration with those of ``overrides`` that choose something, if they fit."""
    overrides = [_first(override) for override in overrides]
    with _configuration():
        loader = GlobalHydra.instance().config_loader()
        groups = {
            group: loader.get_group_options(group, ObjectType.CONFIG)
            for group in loader.get_group_options("", ObjectType.GROUP)
            if group != "hydra"
        }
        chosen = [o for o in overrides if choice_of(o) in groups.get(name_of(o), ())]
        try:
            settings = _composed(chosen)
        except (HydraException, OmegaConfBaseException):
            settings = _composed([])
    return Known(groups, settings, overrides)


def settings_of_choices(group: str, known: Known) -> dict[str, list[str]]:
    """Names of all settings that there are with each choice of a group: ``data=text``."""
    choices = [f"{group}={choice}" for choice in known.groups[group]]
    with _configuration():
        return {choice: sorted(_composed([choice])) for choice in choices}


def _first(override: str) -> str:
    """With the first of several values."""
    read = parse(override)
    if read is None or not read.is_discrete_sweep():
        return override
    return f"{read.get_key_element()}={next(read.sweep_string_iterator())}"


@contextmanager
def _configuration() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with initialize_config_module("packformer.conf", version_base="1.3"):
        yield


def _composed(overrides: list[str]) -> dict[str, Any]:
    def walk(node: Any, path: str) -> Iterator[tuple[str, Any]]:
        for name, child in node.items():
            place = f"{path}.{name}" if path else str(name)
            yield place, child
            if isinstance(child, dict):
                yield from walk(child, place)

    config = compose("config", overrides, return_hydra_config=True)
    return dict(walk(OmegaConf.to_container(config), ""))


def name_of(override: str) -> str:
    """The name of the setting or group: what stands before the ``=``, without ``+`` or ``~``."""
    return override.lstrip("+~").partition("=")[0]


def choice_of(override: str) -> str:
    """What stands after the ``=``."""
    return override.partition("=")[2]


def value_of(name: str, overrides: Sequence[str]) -> str | None:
    """What the first override of ``name`` gives; None if there is none."""
    return next((choice_of(o) for o in overrides if name_of(o) == name), None)
