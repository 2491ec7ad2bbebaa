"""Settings that runs of before lack, and what their absence means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from packformer.layer_pattern import kinds_of_layers

_RATE_FACTORS = {"embedding_rate_factor": 1.0, "head_rate_factor": 1.0}
_ADDED: dict[str, dict[str, Any]] = {
    "packformer.model.GPT": {"norm_eps": None, "embedding_std": None, "checkpointed_layers": None},
    "packformer.model.SelfAttention": {
        "head_dim": None,
        "score_mod": None,
        "across_documents": False,
        "restart_positions": True,
        "value_embeddings": False,
    },
    "packformer.nn.Rotary": {"scaling": None},
    "packformer.data.PackingSettings": {"policy": "best_fit"},
    "packformer.training.adamw": _RATE_FACTORS,
    "packformer.training.muon": _RATE_FACTORS,
}
_ADDED_GROUPS: dict[str, Any] = {
    "init_from": None,
    "deterministic": False,
    "z_loss": None,
    "weight_decay_schedule": "constant",
    "guard": {"skips_in_a_row": 10, "spike_sigma": None, "spike_window": 128},
}
_ADDED_TO_TRAINER = {"num_nodes": 1, "strategy": "auto", "float8": False}
_SAME_WITHOUT_QK_NORM = 1e-5


def with_added_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` as a run of today would have it: equal settings stand there as equal values.

    What a run of before lacks is added. Rows per device and step become those of all devices.
    ``model.norm_eps`` 1e-5 and null mean the same, unless
    queries and keys are normalised, and become null.

    Args:
        config: resolved, plain types only.
    """
    completed = {**_ADDED_GROUPS, **{group: _completed(n) for group, n in config.items()}}
    if isinstance(trainer := completed.get("trainer"), dict):
        rows = {} if "rows_per_step" in trainer else _rows_of_step(trainer)
        kept = {name: value for name, value in trainer.items() if name != "deterministic"}
        completed["trainer"] = {**_ADDED_TO_TRAINER, **kept, **rows}
        if "deterministic" in trainer:
            completed["deterministic"] = trainer["deterministic"] is True
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


def _rows_of_step(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """What a run of before counted on each device; left as it is if their number is not known."""
    devices, accumulated = trainer.get("devices"), trainer.get("accumulate_grad_batches")
    if not isinstance(devices, int) or not isinstance(accumulated, int):
        return {"rows_per_step": None}
    total = devices * trainer.get("num_nodes", 1) * accumulated
    return {"rows_per_step": total, "accumulate_grad_batches": None}


def _has_qk_norm(attention: Any) -> bool:
    return isinstance(attention, Mapping) and attention.get("qk_norm") is not False
