"""Generates text with a trained model: packed prompts, a key/value cache, one token per step."""

from packformer.generation.cache import KVCache
from packformer.generation.decoder import Decoder
from packformer.generation.sampling import Sampling
from packformer.generation.steps import Generation, Report, generate
from packformer.generation.text import TextStream, encode_prompt

__all__ = [
    "Decoder",
    "Generation",
    "KVCache",
    "Report",
    "Sampling",
    "TextStream",
    "encode_prompt",
    "generate",
]
