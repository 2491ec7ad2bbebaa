"""Every setting is checked for its type: what is no flag or number is one line, never ignored."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from packformer.command_line.checks import check_configuration
from packformer.command_line.errors import is_user_error, one_line
from packformer.run.build import build_data, build_model, build_module, build_trainer
from packformer.run.device import resolve_accelerator, resolve_precision
from packformer.run.rehearsal import rehearse

_CHOICES = [  # the first for all settings, the others for those of the groups they choose
    ["data=copying"],
    ["data=recall", "position=alibi", "optimizer=muon", "scheduler=constant"],
    ["data=sorting", "position=learned", "attention=mha"],
    ["data=random", "position=none", "attention=mqa"],
]
# Classes of others, and what is read elsewhere: text that may be a number, or is checked before.
_NOT_OURS = (
    *("callbacks.checkpoint.", "logger.", "name", "resume", "init_from", "output_dir"),
    "bpe_vocab_size",
)
_WRONG: dict[type, list[Any]] = {  # for a default of the type
    bool: ["maybe", 7, [1]],
    int: ["maybe", True, float("nan"), [1]],
    float: ["maybe", True, float("inf"), [1]],
    str: [True, 7.5, [1]],
    type(None): ["maybe", True, float("nan")],
}


def _compose(choices: list[str]) -> dict[str, Any]:
    with initialize_config_module("packformer.conf", version_base="1.3"):
        found = compose("config", ["+debug=fast", *choices])
    return OmegaConf.to_container(found, resolve=True)  # type: ignore[return-value]


def _leaves(node: dict[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{place}{name}.")
        elif not name.startswith("_") and not f"{place}{name}".startswith(_NOT_OURS):
            yield f"{place}{name}", value


def _build(settings: dict[str, Any]) -> None:
    """What a run does with its configuration before it begins."""
    config = OmegaConf.create(settings)
    check_configuration(settings)
    accelerator = resolve_accelerator(config.trainer.accelerator)
    precision = resolve_precision(str(config.trainer.precision), accelerator)
    rehearse(config, settings, accelerator, precision)
    data = build_data(config)
    build_module(config, build_model(config, data), data, accelerator, precision, {})
    build_trainer(config, Path("nowhere"), accelerator=accelerator, precision=precision)


def _with(settings: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    changed = deepcopy(settings)
    *path, last = key.split(".")
    node = changed
    for name in path:
        node = node[name]
    node[last] = value
    return changed


@pytest.mark.parametrize("choices", _CHOICES, ids=" ".join)
def test_a_wrong_type_is_one_line_that_names_the_setting(choices: list[str]) -> None:
    settings = _compose(choices)
    _build(settings)
    chosen = tuple(choice.partition("=")[0] for choice in choices)
    taken = []
    for key, value in _leaves(settings):
        if choices != _CHOICES[0] and not key.startswith(chosen):
            continue
        for wrong in _WRONG[type(value)]:
            if (key, wrong) == ("compile", True):  # a choice
                continue
            try:
                _build(_with(settings, key, wrong))
            except Exception as error:
                if not is_user_error(error) or key.rpartition(".")[2] not in one_line(error):
                    taken.append(f"{key}={wrong!r}: {type(error).__name__} {one_line(error)}")
            else:
                taken.append(f"{key}={wrong!r} passes")
    assert not taken, "\n".join(taken)
