"""What the settings of packformer's own classes must be, known without importing torch.

Constructors check by these rules, and so does a run before it imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from packformer.settings import (
    ANYTHING,
    FLAG,
    MOST_STEPS,
    Rule,
    Rules,
    check_number,
    check_settings,
    listed,
    number,
    one_of,
    shown,
    text,
    whole,
)

_INT32 = 2**31 - 1  # lengths and token ids on a GPU
_SEED = whole(0)
_PATH = text("path")

MODEL: Rules = {
    "vocab_size": whole(1, _INT32).or_null(),
    "num_layers": whole(1, 10_000),
    "width": whole(1, 2**20),
    "num_heads": whole(1, 2**20),
    "hidden_width": whole(1, 2**24).or_null(),
    "tie_embeddings": FLAG,
    "norm_eps": number(above=0, most=1).or_null(),
    "init_std": number(at_least=0, most=100),
    "embedding_std": number(at_least=0, most=100).or_null(),
    "activation_checkpointing": ANYTHING,
    "checkpointed_layers": whole(0, 10_000).or_null(),
    "fp32_residual": FLAG,
}
ATTENTION: Rules = {
    "head_dim": whole(1, 2**16).or_null(),
    "num_kv_heads": whole(1, 2**20).or_null(),
    "window": whole(1, _INT32).or_null(),
    "qk_norm": FLAG,
    "soft_cap": number(above=0).or_null(),
    "across_documents": FLAG,
    "restart_positions": FLAG,
    "value_embeddings": FLAG,
    "score_mod": Rule(
        "a function as my_parts.f, or null",
        lambda v: (
            v is None
            or callable(v)
            or (isinstance(v, str) and "." in v)
            or (isinstance(v, Mapping) and "_target_" in v)
        ),
    ),
    "kernel": ANYTHING,
}
ALIBI: Rules = {
    "learnable": FLAG,
    "slopes": listed(number(at_least=0, most=1e6), "numbers from 0 up").or_null(),
}
PACKING: Rules = {
    "row_length": whole(2, _INT32),
    "max_document_length": whole(2, _INT32).or_null(),
    "long_documents": ANYTHING,
    "lookahead": whole(1, _INT32),
    "policy": one_of("best_fit", "concatenate", "blocks"),
}
LOADER: Rules = {
    "max_documents_per_row": whole(1, _INT32).or_null(),
    "validation_rows": whole(1, _INT32).or_null(),
    "num_workers": whole(0, 4096),
    "seed": _SEED,
}
_VALIDATION: Rules = {"validation_documents": whole(1, _INT32), "seed": _SEED}
RANDOM_DOCUMENTS: Rules = {
    "vocab_size": whole(1, _INT32),
    "mean_length": number(above=0, most=1e15),
    "sigma": number(at_least=0, most=100),
    "longest": whole(2, _INT32).or_null(),
    **_VALIDATION,
}
RECALL: Rules = {
    "num_keys": whole(1, _INT32),
    "num_values": whole(2, _INT32),
    "min_pairs": whole(1, _INT32),
    "max_pairs": whole(1, _INT32),
    **_VALIDATION,
}
TRANSDUCTION: Rules = {
    "num_symbols": whole(2, _INT32),
    "min_symbols": whole(1, _INT32),
    "max_symbols": whole(1, _INT32),
    **_VALIDATION,
}
VOCABULARY = whole(256 + 2, 2**24)
"""Of a tokenizer over bytes: 256 of them, and the first and last token of documents, at least."""

_SHARE = Rule(
    "from 0 up and below 1",
    lambda v: isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v < 1,
)
STANDARD_LIBRARY: Rules = {
    "vocab_size": VOCABULARY,
    "tokenizer": _PATH.or_null(),
    "validation_fraction": _SHARE,
}
TEXT_FILES: Rules = {
    "path": _PATH,
    "field": text("name"),
    "format": one_of("auto", "text", "jsonl", "csv", "parquet"),
    "quoting": one_of("auto", "double", "none"),
    "skip_invalid": FLAG,
    **STANDARD_LIBRARY,
    "validation_fraction": _SHARE.or_null(),
    "skip_setting": text("text"),
    "field_setting": text("text"),
}
TOKEN_SHARDS: Rules = {
    "path": ANYTHING,
    "weights": listed(number(above=0), "numbers above 0").or_null(),
    "shards_at_once": whole(1, _INT32).or_null(),
    "cache_gib": number(above=0, most=1e9),
    "verify": FLAG,
}
_DECAY = Rule("a number from 0 up, and below 1", lambda v: number(at_least=0).holds(v) and v < 1)
_FACTOR = number(above=0, most=1e6)
RATE_FACTORS: Rules = {"embedding_rate_factor": _FACTOR, "head_rate_factor": _FACTOR}
ADAMW: Rules = {
    "learning_rate": number(above=0, most=1e9),
    "weight_decay": number(at_least=0, most=1000),
    "beta1": _DECAY,
    "beta2": _DECAY,
    "eps": number(above=0, most=1),
    **RATE_FACTORS,
}
WEIGHT_DECAY_SCHEDULE = one_of("constant", "learning_rate", "linear", "cosine")
MUON: Rules = {"momentum": _DECAY, **ADAMW}
CONSTANT: Rules = {"num_steps": whole(1, MOST_STEPS), "warmup_steps": whole(0, MOST_STEPS)}
COSINE: Rules = {**CONSTANT, "final_factor": number(at_least=0, most=1)}
WSD: Rules = {**COSINE, "decay": number(at_least=0, most=1)}
Z_LOSS = number(above=0, most=1).or_null()
MAX_GRAD_NORM = number(above=0).or_null()
LOSS_CHUNK = Rule("a whole number from 1 up, or auto", whole(1).holds, _INT32)
GUARD: Rules = {
    "skips_in_a_row": whole(1),
    "spike_sigma": number(above=0).or_null(),
    "spike_window": whole(4, 10**6),
}
_REDUCE_DTYPE = one_of("float32", "bfloat16")
DDP: Rules = {
    "reduce_dtype": _REDUCE_DTYPE,
    "bucket_mb": number(at_least=1, most=1e6),
    "cut_graph": FLAG,
}
FSDP2: Rules = {
    "reduce_dtype": _REDUCE_DTYPE,
    "replicate_over_nodes": FLAG,
    "reduce_every_row": FLAG,
}
RECORDS: Rules = {"peak_tflops": number(above=0, most=1e9).or_null()}
SAMPLES: Rules = {
    "prompts": listed(
        Rule("text", lambda v: isinstance(v, str) and bool(v)), "texts, none of them empty"
    ).or_null(),
    "every_n_validations": whole(1),
    "max_new_tokens": whole(1, _INT32),
    "temperature": number(at_least=0),
    "top_k": whole(1, _INT32).or_null(),
    "top_p": number(above=0, most=1).or_null(),
    "seed": _SEED,
}
LAST_CHECKPOINT: Rules = {"every_minutes": number(above=0, most=1e9), "keep": whole(2, 10_000)}
WANDB: Rules = {
    "mode": ANYTHING,
    "project": text("name"),
    "entity": text("name").or_null(),
    "tags": listed(text("text"), "texts"),
}


def check_model(**values: Any) -> None:
    """Of ``packformer.model.GPT``.

    Raises:
        ValueError: naming the setting.
    """
    check_settings("model", MODEL, values)
    if values.get("embedding_std") is not None and values.get("tie_embeddings", True):
        raise ValueError(
            f"model.embedding_std ({shown(values['embedding_std'])}) needs "
            "model.tie_embeddings=false: else the head would begin with it too"
        )
    checkpointed, layers = values.get("checkpointed_layers"), values["num_layers"]
    if checkpointed is None:
        return
    if checkpointed > layers:
        raise ValueError(
            f"model.checkpointed_layers ({checkpointed}) must not exceed model.num_layers "
            f"({layers})"
        )
    if values.get("activation_checkpointing", "none") == "none":
        raise ValueError(
            f"model.checkpointed_layers ({checkpointed}) changes nothing while "
            "model.activation_checkpointing is none: choose selective or full"
        )


def check_attention(*, width: int, num_heads: int, **values: Any) -> None:
    """Of ``packformer.model.SelfAttention``, in a model of checked ``width`` and ``num_heads``.

    Raises:
        ValueError: naming the setting.
    """
    check_settings("attention", ATTENTION, values)
    if values.get("head_dim") is None and (num_heads < 1 or width % num_heads):
        raise ValueError(
            f"model.width ({width}) must be divisible by model.num_heads ({num_heads}), unless "
            "attention.head_dim is set"
        )
    num_kv_heads = values.get("num_kv_heads")
    if num_kv_heads is not None and num_heads % num_kv_heads:
        raise ValueError(
            f"model.num_heads ({num_heads}) must be divisible by attention.num_kv_heads "
            f"({num_kv_heads})"
        )
    if values.get("restart_positions") is False and not values.get("across_documents"):
        raise ValueError(
            "attention.restart_positions (false) must be true unless "
            "attention.across_documents=true: alone, documents begin at position 0"
        )


ROTARY_SCALING = (
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
)


ROTARY: Rules = {"base": number(above=0, most=1e15), "scaling": ANYTHING}


def check_rotary(
    *, width: int, num_heads: int, head_dim: int, base: Any = 10_000.0, scaling: Any = None
) -> None:
    """Of ``packformer.nn.Rotary``.

    Raises:
        ValueError: naming the setting.
    """
    if head_dim % 2:
        derived = head_dim * num_heads == width
        sizes = f"model.width ({width}) or model.num_heads ({num_heads})"
        raise ValueError(
            f"attention.head_dim ({head_dim}) must be even with rotary positions: change "
            f"{sizes if derived else 'attention.head_dim'}"
        )
    check_settings("position", ROTARY, {"base": base})
    if scaling is not None:
        _check_scaling(scaling)


def _check_scaling(scaling: Any) -> None:
    names = ", ".join(ROTARY_SCALING)
    if not isinstance(scaling, Mapping) or set(scaling) != set(ROTARY_SCALING):
        raise ValueError(f"position.scaling ({shown(scaling)}) must hold {names}; or be null")
    for name, value in scaling.items():
        check_number(f"position.scaling.{name}", value, above=0)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    if low >= high:
        raise ValueError(
            f"position.scaling.low_freq_factor ({low}) must be below high_freq_factor ({high})"
        )


def check_alibi(*, num_heads: int, learnable: Any = False, slopes: Any = None) -> None:
    """Of ``packformer.nn.ALiBi``.

    Raises:
        ValueError: naming the setting.
    """
    check_settings("position", ALIBI, {"learnable": learnable, "slopes": slopes})
    if slopes is not None and len(slopes) != num_heads:
        raise ValueError(
            f"position.slopes ({len(slopes)}) must be as many as model.num_heads ({num_heads}), "
            "or null"
        )


def check_recall(**values: Any) -> None:
    """Of ``packformer.data.AssociativeRecall``.

    Raises:
        ValueError: naming the setting.
    """
    check_settings("data", RECALL, values)
    _check_order("pairs", values)
    keys, pairs = values.get("num_keys"), values.get("max_pairs")
    if keys is not None and pairs is not None and keys < pairs:
        raise ValueError(f"data.num_keys ({keys}) must be at least data.max_pairs ({pairs})")


def check_transduction(**values: Any) -> None:
    """Of ``packformer.data.Copying`` and ``Sorting``.

    Raises:
        ValueError: naming the setting.
    """
    check_settings("data", TRANSDUCTION, values)
    _check_order("symbols", values)


def _check_order(name: str, values: Mapping[str, Any]) -> None:
    low, high = values.get(f"min_{name}"), values.get(f"max_{name}")
    if low is not None and high is not None and low > high:
        raise ValueError(f"data.min_{name} ({low}) must be at most data.max_{name} ({high})")
