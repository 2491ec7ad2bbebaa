"""What there is to be set: groups, their choices, and the settings of what was chosen."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra._internal.utils import get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from packformer.command_line.grammar import parse, read_value

_UNFIT = (HydraException, OmegaConfBaseException, YAMLError)


@dataclass(frozen=True)
class Known:
    """What there is to be set beside some overrides.

    Attributes:
        groups: choices of each group.
        settings: values in the composed configuration, not resolved, and what holds them.
        overrides: the command line's, with its options.
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
        """Of a setting: the command line's, else the composed one; None if there is none.

        Of the values of a sweep, the first.
        """
        given = [override for override in self.overrides if name_of(override) == name]
        return read_value(choice_of(_first(given[-1]))) if given else self.settings.get(name)

    def removes(self, name: str) -> bool:
        """Whether an override takes ``name`` away."""
        return any(o.startswith("~") and name_of(o) == name for o in self.overrides)


def known_beside(overrides: Sequence[str]) -> Known:
    """Of the configuration with those of ``overrides`` that choose something, if they fit.

    Args:
        overrides: the command line's; its options may be among them, and ``--config-dir`` should.
    """
    with _configuration(overrides):
        loader = GlobalHydra.instance().config_loader()
        groups = {
            group: loader.get_group_options(group, ObjectType.CONFIG)
            for group in loader.get_group_options("", ObjectType.GROUP)
            if group != "hydra"
        }
        chosen = [o for o in map(_first, overrides) if choice_of(o) in groups.get(name_of(o), ())]
        try:
            settings = _composed(chosen)
        except _UNFIT:
            settings = _composed([])
    return Known(groups, settings, overrides)


def settings_of_choices(group: str, known: Known) -> dict[str, list[str]]:
    """Names of all settings that there are with each choice of a group: ``data=text``."""
    found = {}
    with _configuration(known.overrides):
        for choice in known.groups[group]:
            with suppress(*_UNFIT):  # one of the user's that was not chosen
                found[f"{group}={choice}"] = sorted(_composed([f"{group}={choice}"]))
    return found


def _first(override: str) -> str:
    """With the first of several values."""
    read = parse(override)
    if read is None or not read.is_discrete_sweep():
        return override
    return f"{read.get_key_element()}={next(read.sweep_string_iterator())}"


@contextmanager
def _configuration(overrides: Sequence[str]) -> Iterator[None]:
    """Hydra finds packformer's choices, and those of the user's own."""
    GlobalHydra.instance().clear()
    with initialize_config_module("packformer.conf", version_base="1.3"):
        loader: Any = GlobalHydra.instance().config_loader()
        search_path = loader.get_search_path()
        for place in _own_places(overrides):
            search_path.prepend("command-line", place, SearchPathQuery(provider="schema"))
        loader.repository.initialize_sources(search_path)
        yield


def _own_places(overrides: Sequence[str]) -> list[str]:
    """Where choices of the user's own lie: ``--config-dir`` and ``hydra.searchpath``."""
    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        read, _ = parser.parse_known_intermixed_args(overrides)
    except argparse.ArgumentError:  # told by who reads the options
        return []
    folder = [] if read.config_dir is None else [f"file://{Path(read.config_dir).absolute()}"]
    given = value_of("hydra.searchpath", read.overrides)
    places = None if given is None else read_value(given)
    return [*folder, *(map(str, places) if isinstance(places, list) else ())]


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
