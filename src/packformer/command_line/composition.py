"""Composes a configuration outside ``python -m train``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from packformer.command_line.checks import check_configuration, check_given
from packformer.command_line.errors import one_line
from packformer.command_line.groups import refuse_removed, refuse_two_experiments
from packformer.command_line.ignored_layers import refuse_ignored
from packformer.command_line.resumed import with_settings_added
from packformer.run.continued import with_settings_of_run
from packformer.run.secrets import refuse_secrets
from packformer.run.start import with_settings_of_start
from packformer.run.user_errors import USER_ERRORS


def compose(overrides: Sequence[str]) -> DictConfig:
    """The configuration that ``python -m train`` would make of these overrides, resolved.

    Raises:
        ValueError: if there is none; says why.
    """
    refuse_removed(overrides)
    refuse_two_experiments(overrides)
    overrides = with_settings_added(overrides)
    try:
        with hydra.initialize_config_module("packformer.conf", version_base="1.3"):
            config = hydra.compose("config", list(overrides))
            config = with_settings_of_run(config, overrides)
            refuse_ignored(config, overrides)
            config = with_settings_of_start(config, overrides)
        OmegaConf.resolve(config)
    except USER_ERRORS as error:
        raise ValueError(one_line(error, overrides)) from error
    return config


def compose_plain(overrides: Sequence[str]) -> dict[str, Any]:
    """``compose``, as plain types; errors are the same."""
    settings: Any = OmegaConf.to_container(compose(overrides), resolve=True)
    return settings


def check_run(overrides: Sequence[str]) -> dict[str, Any]:
    """Checks a run of these overrides as ``python -m train`` does before it imports torch.

    Returns:
        Its configuration, resolved, as plain types.

    Raises:
        ValueError: if it could not begin; says why.
    """
    config = compose(overrides)
    check_given(config)
    settings: Any = OmegaConf.to_container(config, resolve=True)
    refuse_secrets(settings, overrides)
    check_configuration(settings, overrides)
    return settings
