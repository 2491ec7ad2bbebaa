"""Checks of the settings of model, optimizer and schedule, without importing torch.

Constructors call these functions, and so does a run before it imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from packformer.settings import check_flag, check_number, check_whole, is_number


def check_model(
    *,
    num_layers: Any,
    width: Any,
    num_heads: Any,
    hidden_width: Any = None,
    tie_embeddings: Any = True,
    norm_eps: Any = None,
    init_std: Any = 0.02,
    activation_checkpointing: Any = "none",
    checkpointed_layers: Any = None,
    fp32_residual: Any = True,
) -> None:
    """Of ``packformer.model.GPT``.

    Raises:
        ValueError: naming the setting.
    """
    sizes = {"num_layers": num_layers, "width": width, "num_heads": num_heads}
    if hidden_width is not None:
        sizes["hidden_width"] = hidden_width
    for name, value in sizes.items():
        check_whole(name, value, at_least=1)
    check_flag("tie_embeddings", tie_embeddings)
    check_flag("fp32_residual", fp32_residual)
    if norm_eps is not None:
        check_number("norm_eps", norm_eps, above=0)
    check_number("init_std", init_std, at_least=0)
    if checkpointed_layers is not None:
        check_whole("checkpointed_layers", checkpointed_layers, at_least=0)
        if checkpointed_layers > num_layers:
            raise ValueError(
                f"checkpointed_layers ({checkpointed_layers}) must not exceed num_layers "
                f"({num_layers})"
            )
        if activation_checkpointing == "none":
            raise ValueError(
                f"checkpointed_layers ({checkpointed_layers}) changes nothing while "
                "activation_checkpointing is none: choose selective or full"
            )


def check_attention(
    *,
    width: int,
    num_heads: int,
    head_dim: Any = None,
    num_kv_heads: Any = None,
    window: Any = None,
    qk_norm: Any = False,
    soft_cap: Any = None,
) -> None:
    """Of ``packformer.model.SelfAttention``.

    Raises:
        ValueError: naming the setting.
    """
    num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    if head_dim is not None:
        check_whole("head_dim", head_dim, at_least=1)
    elif num_heads < 1 or width % num_heads:
        raise ValueError(
            f"width ({width}) must be divisible by num_heads ({num_heads}), unless "
            "attention.head_dim is set"
        )
    check_whole("num_kv_heads", num_kv_heads, at_least=1)
    check_flag("qk_norm", qk_norm)
    if num_heads % num_kv_heads:
        raise ValueError(
            f"num_heads ({num_heads}) must be divisible by num_kv_heads ({num_kv_heads})"
        )
    if window is not None and not (type(window) is int and window >= 1):
        raise ValueError(f"window ({window}) must be a whole number from 1 up, or null")
    if soft_cap is not None and not (is_number(soft_cap) and soft_cap > 0):
        raise ValueError(f"soft_cap ({soft_cap}) must be positive, or null")


ROTARY_SCALING = (
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
)


def check_rotary(
    *, width: int, num_heads: int, head_dim: int, base: Any = 10_000.0, scaling: Any = None
) -> None:
    """Of ``packformer.nn.Rotary``.

    Raises:
        ValueError: naming the setting.
    """
    if head_dim % 2:
        derived = head_dim * num_heads == width
        what = f"width ({width}) or num_heads ({num_heads})" if derived else "attention.head_dim"
        raise ValueError(f"head_dim ({head_dim}) must be even with rotary positions: change {what}")
    check_number("base", base, above=0)
    if scaling is not None:
        _check_scaling(scaling)


def _check_scaling(scaling: Any) -> None:
    names = ", ".join(ROTARY_SCALING)
    if not isinstance(scaling, Mapping) or set(scaling) != set(ROTARY_SCALING):
        raise ValueError(f"position.scaling ({scaling}) must hold {names}; or be null")
    for name, value in scaling.items():
        check_number(f"position.scaling.{name}", value, above=0)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    if low >= high:
        raise ValueError(
            f"position.scaling.low_freq_factor ({low}) must be below high_freq_factor ({high})"
        )


def check_adamw(
    *,
    learning_rate: Any = 3e-3,
    weight_decay: Any = 0.1,
    beta1: Any = 0.9,
    beta2: Any = 0.95,
    eps: Any = 1e-8,
) -> None:
    """Of ``packformer.training.adamw``.

    Raises:
        ValueError: naming the setting.
    """
    check_number("optimizer.learning_rate", learning_rate, above=0)
    check_number("optimizer.weight_decay", weight_decay, at_least=0)
    _check_decay("optimizer.beta1", beta1)
    _check_decay("optimizer.beta2", beta2)
    check_number("optimizer.eps", eps, above=0)


def check_muon(*, momentum: Any = 0.95, **of_adamw: Any) -> None:
    """Of ``packformer.training.muon``.

    Raises:
        ValueError: naming the setting.
    """
    _check_decay("optimizer.momentum", momentum)
    check_adamw(**of_adamw)


def _check_decay(name: str, value: Any) -> None:
    check_number(name, value, at_least=0)
    if value >= 1:
        raise ValueError(f"{name} ({value}) must be below 1")


def check_schedule(*, num_steps: Any, warmup_steps: Any = 0, final_factor: Any = 0) -> None:
    """Of ``packformer.training.warmup_cosine`` and ``constant``.

    Raises:
        ValueError: naming the setting.
    """
    check_whole("scheduler.num_steps", num_steps, at_least=1)
    check_whole("scheduler.warmup_steps", warmup_steps, at_least=0)
    check_number("scheduler.final_factor", final_factor, at_least=0)


def check_guard(
    *, skips_in_a_row: Any = 10, spike_sigma: Any = None, spike_window: Any = 128
) -> None:
    """Of ``packformer.training.GuardSettings``.

    Raises:
        ValueError: naming the setting.
    """
    check_whole("guard.skips_in_a_row", skips_in_a_row, at_least=1)
    if spike_sigma is not None:
        check_number("guard.spike_sigma (null, or a number)", spike_sigma, above=0)
    check_whole("guard.spike_window", spike_window, at_least=4)
