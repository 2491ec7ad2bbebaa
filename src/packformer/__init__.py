"""Trains GPT-style language models on packed documents that never attend to each other.

What a script needs, each name imported when it is first used::

    packed_attention, PackedLayout        attention within documents
    pack, PackedBatch                     documents to rows
    GPT, SelfAttention                    the model
    Rotary, ALiBi, Learned, NoPosition    its position schemes
    load                                  a run or exported folder to model and tokenizer
    generate, encode_prompt               what a model writes after a prompt
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from packformer.attention import PackedLayout, packed_attention
    from packformer.batch import PackedBatch
    from packformer.data import pack
    from packformer.generation import encode_prompt, generate
    from packformer.model import GPT, SelfAttention
    from packformer.nn import ALiBi, Learned, NoPosition, Rotary
    from packformer.run.load import load

__version__ = "0.1.0"

__all__ = [
    "GPT",
    "ALiBi",
    "Learned",
    "NoPosition",
    "PackedBatch",
    "PackedLayout",
    "Rotary",
    "SelfAttention",
    "encode_prompt",
    "generate",
    "load",
    "pack",
    "packed_attention",
]

_HOMES = {
    "packformer.attention": ("PackedLayout", "packed_attention"),
    "packformer.batch": ("PackedBatch",),
    "packformer.data": ("pack",),
    "packformer.generation": ("encode_prompt", "generate"),
    "packformer.model": ("GPT", "SelfAttention"),
    "packformer.nn": ("ALiBi", "Learned", "NoPosition", "Rotary"),
    "packformer.run.load": ("load",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'packformer' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
