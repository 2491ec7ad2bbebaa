"""Settings that runs of before lack, and what their absence means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from packformer.layer_pattern import kinds_of_layers

_ADDED: dict[str, dict[str, Any]] = {
    "packformer.model.GPT": {"norm_eps": None},
    "packformer.model.SelfAttention": {"head_dim": None},
    "packformer.nn.Rotary": {"scaling": None},
}
_SAME_WITHOUT_QK_NORM = 1e-5


def with_added_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` as a run of today would have it: equal settings stand there as equal values.

    What a run of before lacks is added. ``model.norm_eps`` 1e-5 and null mean the same, unless
    queries and keys are normalised, and become null.

    Args:
        config: resolved, plain types only.
    """
    completed = {"init_from": None, **{group: _completed(n) for group, n in config.items()}}
    model = completed.get("model")
    if isinstance(model, dict) and model.get("norm_eps") == _SAME_WITHOUT_QK_NORM:
        kinds = kinds_of_layers(config).values() or ({"attention": config.get("attention")},)
        if not any(_has_qk_norm(kind["attention"]) for kind in kinds):
            completed["model"] = {**model, "norm_eps": None}
    return completed


def _completed(node: Any) -> Any:
    if not isinstance(node, Mapping):
        return node
    return {**_ADDED.get(str(node.get("_target_")), {}), **node}


def _has_qk_norm(attention: Any) -> bool:
    return isinstance(attention, Mapping) and attention.get("qk_norm") is not False
