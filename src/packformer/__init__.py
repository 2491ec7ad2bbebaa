"""Trains GPT-style language models on packed documents that never attend to each other.

What you use in a script. Each name is imported when it is first used::

    packed_attention, PackedLayout        attention within documents
    pack, PackedBatch                     documents to rows
    GPT, SelfAttention                    the model
    Rotary, ALiBi, Learned, NoPosition    its position schemes
    Position                              base class of your own position scheme
    load                                  opens model and tokenizer of a run or exported folder
    generate, encode_prompt               continue prompts with a model
    evaluate, Documents                   measure how well a model predicts documents
"""

from typing import TYPE_CHECKING

from packformer.lazy import lazily

if TYPE_CHECKING:
    from packformer.attention import PackedLayout, packed_attention
    from packformer.batch import PackedBatch
    from packformer.data import Documents, pack
    from packformer.evaluation import evaluate
    from packformer.generation import encode_prompt, generate
    from packformer.model import GPT, SelfAttention
    from packformer.nn import ALiBi, Learned, NoPosition, Position, Rotary
    from packformer.run.load import load

__version__ = "0.1.0"

__all__ = [
    "GPT",
    "ALiBi",
    "Documents",
    "Learned",
    "NoPosition",
    "PackedBatch",
    "PackedLayout",
    "Position",
    "Rotary",
    "SelfAttention",
    "encode_prompt",
    "evaluate",
    "generate",
    "load",
    "pack",
    "packed_attention",
]

if not TYPE_CHECKING:  # a checker would take any name for one of these
    __getattr__ = lazily(
        __name__,
        {
            "packformer.attention": ("PackedLayout", "packed_attention"),
            "packformer.batch": ("PackedBatch",),
            "packformer.data": ("Documents", "pack"),
            "packformer.evaluation": ("evaluate",),
            "packformer.generation": ("encode_prompt", "generate"),
            "packformer.model": ("GPT", "SelfAttention"),
            "packformer.nn": ("ALiBi", "Learned", "NoPosition", "Position", "Rotary"),
            "packformer.run.load": ("load",),
        },
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
