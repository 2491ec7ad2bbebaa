"""What runs in tests are spared changes nothing of their configuration."""

from __future__ import annotations

from inspect import unwrap

import pytest
from hydra import compose, initialize_config_module
from hydra._internal import config_loader_impl
from omegaconf import OmegaConf
from spared import merge_groups_once

from packformer.run.naming import register_folder_suffix
from packformer.sweeps.launchers import register_launchers

COMMAND_LINES = (
    [],
    ["+experiment=gqa", "trainer.max_steps=5"],
    ["+experiment=gqa", "trainer.max_steps=6", "~callbacks.samples"],
    ["attention=mqa", "+debug=fast", "data=text", "data.path=texts"],
    ["attention=mqa", "+debug=fast", "data=text", "data.path=others", "+logger.x=1"],
)


def _composed() -> list[str]:
    with initialize_config_module("packformer.conf", version_base="1.3"):
        every = [compose("config", given, return_hydra_config=True) for given in COMMAND_LINES]
    return [OmegaConf.to_yaml(each) for each in every]


def test_groups_that_are_merged_once_make_the_same_configuration() -> None:
    register_launchers()
    register_folder_suffix()
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (config_loader_impl, "create_defaults_list"),
            (config_loader_impl.ConfigLoaderImpl, "_compose_config_from_defaults_list"),
        ):
            patch.setattr(owner, name, unwrap(getattr(owner, name)))
        wanted = _composed()
        merge_groups_once(patch)
        assert [_composed(), _composed()] == [wanted, wanted]
