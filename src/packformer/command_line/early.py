"""Checks settings of packformer's own model, optimizer and schedule before torch is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from packformer.layer_pattern import kinds_of_layers, naming_letter
from packformer.requirements import (
    check_adamw,
    check_attention,
    check_model,
    check_muon,
    check_rotary,
    check_schedule,
)

_ELSEWHERE = {  # settings that the data, the kernels or `checks.CHOICES` decide on
    "model": ("vocab_size",),
    "attention": ("kernel", "score_mod"),
}
_CHECKS: dict[str, Callable[..., None]] = {
    "packformer.training.adamw": check_adamw,
    "packformer.training.muon": check_muon,
    "packformer.training.warmup_cosine": check_schedule,
    "packformer.training.constant": check_schedule,
}


def check_parts(config: Mapping[str, Any]) -> None:
    """Refuses values that the constructors of packformer's own classes would refuse.

    The rehearsal checks the names of settings, and the settings of users' own classes.

    Args:
        config: the resolved configuration, plain types only.

    Raises:
        ValueError: naming the setting.
    """
    kinds = kinds_of_layers(config)
    refused: dict[str, ValueError] = {}
    for letter, kind in kinds.items():
        try:
            _check_model({**config, **kind})
        except ValueError as error:
            refused[letter] = error
    if refused:
        letter, first = next(iter(refused.items()))
        alone = [str(error) for error in refused.values()].count(str(first)) < len(kinds)
        raise ValueError(naming_letter(str(first), letter, config, alone=alone)) from first
    if not kinds:
        _check_model(config)
    for group in ("optimizer", "scheduler"):
        node = config.get(group)
        target = node.get("_target_") if isinstance(node, Mapping) else None
        if target in _CHECKS:
            _call(_CHECKS[target], _values(config, group))


def _check_model(config: Mapping[str, Any]) -> None:
    if _is(config, "model", "packformer.model.GPT"):
        model = _values(config, "model")
        _call(check_model, model)
        sizes = {name: model[name] for name in ("width", "num_heads") if name in model}
        if len(sizes) == 2 and _is(config, "attention", "packformer.model.SelfAttention"):
            _call(check_attention, sizes | _values(config, "attention"))
            if _is(config, "position", "packformer.nn.Rotary"):
                asked = config["attention"].get("head_dim")
                head_dim = sizes["width"] // sizes["num_heads"] if asked is None else asked
                of_heads = {"head_dim": head_dim}
                _call(check_rotary, sizes | of_heads | _values(config, "position"))


def _is(config: Mapping[str, Any], group: str, target: str) -> bool:
    node = config.get(group)
    return isinstance(node, Mapping) and node.get("_target_") == target


def _values(config: Mapping[str, Any], group: str) -> dict[str, Any]:
    left_out = _ELSEWHERE.get(group, ())
    node = config[group]
    return {k: v for k, v in node.items() if not k.startswith("_") and k not in left_out}


def _call(check: Callable[..., None], values: dict[str, Any]) -> None:
    """Leaves unknown and missing names to the rehearsal."""
    try:
        check(**values)
    except TypeError:
        return
