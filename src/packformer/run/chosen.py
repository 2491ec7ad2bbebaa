"""What a command line chooses of the configuration: single settings, groups and experiments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hydra._internal.defaults_list import Overrides
from hydra.core.default_element import ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from packformer.run.resume import flat

_PRIMARY = "config"
_HYDRA = "hydra"


def named(overrides: Iterable[str]) -> list[str]:
    """Names of the settings and groups that overrides name."""
    return [override.lstrip("+~").partition("=")[0] for override in overrides]


def choices_of(overrides: Sequence[str]) -> dict[str, str]:
    """What a command line and its experiments choose of each group: ``{"optimizer": "muon"}``."""
    return _choices(_defaults(overrides).overrides)


def _choices(made: Overrides) -> dict[str, str]:
    appended = {each.get_group_path(): each.value for each in made.append_group_defaults}
    chosen = {**made.override_choices, **appended}
    return {group: str(choice) for group, choice in chosen.items() if not _is_hydras(group)}


def chosen_settings(overrides: Sequence[str], known: Mapping[str, str]) -> set[str]:
    """Names of the settings that a command line chooses; a group stands for all its settings.

    Args:
        overrides: of the command line.
        known: choices of groups that are no news, and so choose nothing.
    """
    made = _defaults(overrides)
    again = {f"{group}/{choice}" for group, choice in known.items()}
    groups = {
        group
        for group, choice in made.overrides.override_choices.items()
        if known.get(group) != str(choice)
        and made.overrides.override_metadata[group].containing_config_path not in again
    }
    found = {group.rpartition("@")[2].replace("/", ".") for group in groups}
    every = _choices(made.overrides)
    usual = {default.config_path for default in _defaults([]).defaults}
    for default in made.defaults:
        file = str(default.config_path)
        whole = file.rpartition("/")[0] in made.overrides.override_choices
        if not whole and file not in again | usual:
            found |= _settings_in(default)
    found |= {name for name in named(overrides) if name not in every}
    return {name for name in found if not _is_hydras(name)}


def _defaults(overrides: Sequence[str]) -> Any:
    given = [*search_path_of(HydraConfig.instance().cfg), *overrides]
    return _loader().compute_defaults_list(_PRIMARY, given, RunMode.RUN)


def own_places(config: Any) -> list[str]:
    """The arguments of the command line that lead to choices of the user's own.

    Args:
        config: with Hydra's own.
    """
    folders = [
        source.path
        for source in config.hydra.runtime.config_sources
        if source.provider == "command-line"
    ]
    options = [word for folder in folders for word in ("--config-dir", folder)]
    return [*options, *search_path_of(config)]


def search_path_of(config: Any) -> list[str]:
    """The override of ``hydra.searchpath`` on the command line; empty if there is none.

    Args:
        config: with Hydra's own; None outside of ``train``.
    """
    given = [] if config is None else config.hydra.overrides.hydra
    return [one for one in given if one.lstrip("+").startswith("hydra.searchpath=")]


def _loader() -> Any:
    return GlobalHydra.instance().config_loader()


def _is_hydras(name: str) -> bool:
    return name.replace("/", ".").partition(".")[0] == _HYDRA


def _settings_in(default: ResultDefault) -> set[str]:
    """Names of those that a file of a group states, such as an experiment."""
    loaded = _loader().repository.load_config(default.config_path)
    body = OmegaConf.to_container(loaded.config, resolve=False)
    prefix = f"{default.package}." if default.package else ""
    return {f"{prefix}{name}" for name in flat(body) if name}
