"""Folders of ``transformers`` with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

SCALING = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama, tied, all heads": ("Llama", {"num_key_value_heads": 6, "tie_word_embeddings": True}),
    "llama, one key/value head, llama3": (
        "Llama",
        {
            "num_key_value_heads": 1,
            "rope_parameters": {**SCALING, "rope_theta": 500_000.0},
            "rms_norm_eps": 1e-5,
        },
    ),
    "llama, heads of their own size": ("Llama", {"head_dim": 14}),
    "mistral": ("Mistral", {"sliding_window": 5}),
    "mistral, no window": (
        "Mistral",
        {"sliding_window": None, "hidden_size": 50, "head_dim": 4, "tie_word_embeddings": True},
    ),
    "qwen3": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen3, all heads, window": (
        "Qwen3",
        {
            "head_dim": 8,
            "num_key_value_heads": 6,
            "use_sliding_window": True,
            "sliding_window": 6,
            "max_window_layers": 0,
        },
    ),
}
"""Architectures and options that are read and written."""


@pytest.fixture
def theirs() -> Callable[..., Any]:
    """Makes a model of ``transformers``; random norms too, so that each counts."""
    transformers = pytest.importorskip("transformers")

    def make(kind: str, **options: Any) -> Any:
        torch.manual_seed(0)
        sizes = {
            "vocab_size": 97,
            "hidden_size": 48,
            "intermediate_size": 80,
            "num_hidden_layers": 2,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "initializer_range": 0.2,
            "attn_implementation": "eager",
            "use_cache": False,
        }
        config = getattr(transformers, f"{kind}Config")(**{**sizes, **options})
        model = getattr(transformers, f"{kind}ForCausalLM")(config)
        for name, parameter in model.named_parameters():
            if "norm" in name:
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
        return model

    return make


@pytest.fixture
def folder(theirs: Callable[..., Any], tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder as ``transformers`` saves it."""

    def make(kind: str = "Llama", shards: str = "5GB", **options: Any) -> Path:
        theirs(kind, **options).save_pretrained(tmp_path / "theirs", max_shard_size=shards)
        return tmp_path / "theirs"

    return make
