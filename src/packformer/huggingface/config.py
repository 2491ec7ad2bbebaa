"""``config.json``: written from a form, and read into one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from packformer.huggingface.form import Form
from packformer.requirements import ROTARY_SCALING
from packformer.settings import is_number

log = logging.getLogger(__name__)

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_SIZES = {
    "vocab_size": "vocab_size",
    "max_position": "max_position_embeddings",
    "num_layers": "num_hidden_layers",
    "width": "hidden_size",
    "hidden_width": "intermediate_size",
    "num_heads": "num_attention_heads",
}
_MOST = {"num_hidden_layers": 10_000, "max_position_embeddings": 2**22}
_LARGEST = 2**24  # of other sizes
_NO_BIAS = ("attention_bias", "mlp_bias")
_SLIDING = "sliding_attention"
_USUAL_WINDOW = 4096  # of Mistral and Qwen3, where config.json names none


def to_config(form: Form, dtype: str) -> dict[str, Any]:
    """The ``config.json`` of a form, without the ids of special tokens.

    Rotary settings stand where ``transformers`` 4 and what is built on it look for them; version 5
    reads them there, too.

    Args:
        form: of the model.
        dtype: of the weights, such as ``"float32"``.
    """
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURES[form.model_type]],
        "model_type": form.model_type,
        "torch_dtype": dtype,
        **{theirs: getattr(form, ours) for ours, theirs in _SIZES.items()},
        "num_key_value_heads": form.num_kv_heads,
        "head_dim": form.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": form.norm_eps,
        "rope_theta": form.base,
        "rope_scaling": form.scaling and {"rope_type": "llama3", **form.scaling},
        "tie_word_embeddings": form.tie_embeddings,
        "attention_bias": False,
    }
    if form.model_type == "mistral":
        config["sliding_window"] = form.window
    if form.model_type == "qwen3" and form.window is not None:
        config |= {"use_sliding_window": True, "sliding_window": form.window}
        config |= {"max_window_layers": 0, "layer_types": [_SLIDING] * form.num_layers}
    return config


def from_config(config: Mapping[str, Any], name: str) -> Form:
    """The form that a ``config.json`` describes.

    Args:
        config: its content.
        name: of the file, for messages.

    Raises:
        ValueError: if it describes what ``packformer.model.GPT`` does not compute, or lacks a size.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise ValueError(
            f"{name}: model_type ({kind}) must be one of {', '.join(ARCHITECTURES)}: other "
            "architectures cannot be imported"
        )
    _refuse_what_is_not_computed(config, name)
    sizes = {ours: _size(config, theirs, name) for ours, theirs in _SIZES.items()}
    heads, width = sizes["num_heads"], sizes["width"]
    kv_heads = _optional_size(config, "num_key_value_heads", name)
    head_dim = _optional_size(config, "head_dim", name)
    eps = config.get("rms_norm_eps", 1e-6)
    if not is_number(eps) or eps <= 0:
        raise ValueError(f"{name}: rms_norm_eps ({eps}) must be a number above 0")
    base, scaling = _rotary(config, name)
    return Form(
        **sizes,
        num_kv_heads=kv_heads or (8 if kind == "mistral" else heads),
        head_dim=head_dim or (128 if kind == "qwen3" else max(1, width // heads)),
        norm_eps=eps,
        base=base,
        scaling=scaling,
        window=_window(config, name),
        qk_norm=kind == "qwen3",
        tie_embeddings=bool(config.get("tie_word_embeddings", False)),
    )


def _refuse_what_is_not_computed(config: Mapping[str, Any], name: str) -> None:
    for bias in _NO_BIAS:
        if config.get(bias):
            raise ValueError(f"{name}: {bias} (true) must be false: the layers here have no biases")
    if (activation := config.get("hidden_act", "silu")) != "silu":
        raise ValueError(f"{name}: hidden_act ({activation}) must be silu")
    if dropout := config.get("attention_dropout"):
        log.warning("%s: attention_dropout (%s) is not applied: there is none here", name, dropout)
    if config.get("quantization_config"):
        raise ValueError(
            f"{name}: quantization_config is set: give a folder whose weights are not quantized"
        )


def _size(config: Mapping[str, Any], field: str, name: str) -> int:
    value = config.get(field)
    most = _MOST.get(field, _LARGEST)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        found = "is missing" if field not in config else f"({str(value)[:100]})"
        raise ValueError(f"{name}: {field} {found}: it must be a whole number from 1 to {most:,}")
    return value


def _optional_size(config: Mapping[str, Any], field: str, name: str) -> int | None:
    return _size(config, field, name) if config.get(field) else None


def _rotary(config: Mapping[str, Any], name: str) -> tuple[float, dict[str, float] | None]:
    """Base and scaling. Version 5 of ``transformers`` has both in ``rope_parameters``."""
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(found, Mapping):
        raise ValueError(f"{name}: rope_scaling ({found}) must be an object or null")
    base = found.get("rope_theta") or config.get("rope_theta") or 10_000.0
    if not is_number(base) or base <= 0:
        raise ValueError(f"{name}: rope_theta ({str(base)[:100]}) must be a number above 0")
    kind = found.get("rope_type", found.get("type", "default"))
    if (share := found.get("partial_rotary_factor", config.get("partial_rotary_factor", 1))) != 1:
        raise ValueError(f"{name}: partial_rotary_factor ({share}) must be 1")
    if kind == "default":
        return base, None
    if kind != "llama3":
        raise ValueError(
            f"{name}: rope_scaling of type {kind} cannot be imported: there are default and llama3"
        )
    longest = {"original_max_position_embeddings": config["max_position_embeddings"]}
    complete = {**longest, **found}
    if missing := [field for field in ROTARY_SCALING if field not in complete]:
        raise ValueError(f"{name}: rope_scaling lacks {', '.join(missing)}")
    for field in ROTARY_SCALING:
        if not is_number(complete[field]):
            shown = str(complete[field])[:100]
            raise ValueError(f"{name}: rope_scaling.{field} ({shown}) must be a number")
    return base, {field: complete[field] for field in ROTARY_SCALING}


def _window(config: Mapping[str, Any], name: str) -> int | None:
    kind = config["model_type"]
    window: int | None = _USUAL_WINDOW
    if "sliding_window" in config:
        window = _optional_size(config, "sliding_window", name)
    if kind == "mistral":
        return window
    if kind == "llama" or not config.get("use_sliding_window") or window is None:
        return None
    layers = config["num_hidden_layers"]
    first = config.get("max_window_layers", 28)
    if not isinstance(first, int):
        raise ValueError(f"{name}: max_window_layers ({str(first)[:100]}) must be a whole number")
    windowed = [layer >= first for layer in range(layers)]
    if kinds := config.get("layer_types"):
        if not isinstance(kinds, list):
            raise ValueError(f"{name}: layer_types ({str(kinds)[:100]}) must be a list")
        windowed = [kind == _SLIDING for kind in kinds]
    if len(set(windowed)) > 1:
        raise ValueError(
            f"{name}: {sum(windowed)} of {layers} layers have a sliding window: folders whose "
            "layers differ cannot be imported"
        )
    return window if windowed[0] else None
