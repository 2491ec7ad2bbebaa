"""The language model."""

from packformer.model.gpt import GPT
from packformer.model.self_attention import SelfAttention

__all__ = ["GPT", "SelfAttention"]
