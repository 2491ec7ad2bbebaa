"""The rows that every proof goes through: what kernels branch on, at its ends and between."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from packformer.attention.kernel import Variant
from packformer.attention.proof.case import Case

# No power of two, whose published slopes follow another rule.
_HEADS, _GROUPED_KV_HEADS = 12, 3
_SCALE = 0.8  # of the usual one: a kernel must heed it
_WINDOW = 100
_SOFT_CAP = 5.0
_MIXED = {
    "cpu": (1, 90, 17, 8, 33, 2, 29),
    "cuda": (1, 700, 129, 8, 333, 2, 127, 511, 61, 300),
}
_SLOTS = 550
_TIMED = {
    "cpu": (32, 250, 90, 16, 124),
    "cuda": (600, 150, 1200, 60, 2400, 300, 900, 400) * 5,
}
_BLOCK = 128  # the largest that a kernel computes at once, and a multiple of all smaller ones
_STEP = 16  # the smallest


def mixed_row(variant: Variant) -> Case:
    """Very different documents, and far more slots than documents."""
    lengths = _MIXED[variant.device_type]
    features, learned = variant.features, {True: "learned", False: "given"}
    alibi = learned["learned_alibi" in features] if features & _OWN_SLOPES else "published"
    return Case(
        dtype=str(variant.dtype).removeprefix("torch."),
        head_dim=variant.head_dim,
        num_heads=_HEADS,
        num_kv_heads=_GROUPED_KV_HEADS if "grouped" in features else _HEADS,
        lengths=lengths,
        empty_slots=_SLOTS - len(lengths),
        bound=sum(lengths),
        window=_WINDOW if "window" in features else None,
        soft_cap=_SOFT_CAP if "soft_cap" in features else None,
        alibi=alibi if "alibi" in features else "none",  # type: ignore[arg-type]
        bias=learned["learned_bias" in features] if "bias" in features else "none",  # type: ignore[arg-type]
        bias_heads=_HEADS if "bias" in features else 0,
        score_mod="score_mod" in features,
        scale=_SCALE,
    )


_OWN_SLOPES = {"given_alibi", "learned_alibi"}


def timed_row(variant: Variant) -> Case:
    """A usual row."""
    lengths = _TIMED[variant.device_type]
    return replace(mixed_row(variant), lengths=lengths, empty_slots=0, bound=None)


def usual_rows(variant: Variant) -> Iterator[Case]:
    """Three packings of equally many tokens: very different documents, tiny ones, a single one."""
    mixed = mixed_row(variant)
    yield mixed
    many: list[int] = []
    while (rest := mixed.num_tokens - sum(many)) > 0:
        many.append(min(rest, 1 + 5 * len(many) % 7))
    for lengths in (tuple(many), (mixed.num_tokens,)):
        yield replace(mixed, lengths=lengths, empty_slots=_SLOTS - len(lengths))


def odd_rows(variant: Variant) -> Iterator[Case]:
    """Rows of every remainder modulo the blocks that kernels compute in, and other extremes.

    Lengths below a block and around each multiple of 16 up to 128, the same with whole blocks
    before; the row one document, or one token alone at either end; empty slots between
    documents; bounds beyond the row; queries, values and gradients large and small.
    """
    base = replace(mixed_row(variant), empty_slots=0, bound=None)
    on_cpu = variant.device_type == "cpu"
    if on_cpu:  # nothing is compiled for a number of heads, and their time counts
        kv_heads = 1 if "grouped" in variant.features else 3
        base = replace(base, num_heads=3, num_kv_heads=kv_heads, bias_heads=min(3, base.bias_heads))
    multiples = range(_STEP, _BLOCK + 1, _STEP)
    remainders = sorted({1, 2, 7, *(m + d for m in multiples for d in (-1, 0, 1))})
    for number, remainder in enumerate(remainders):
        blocks = (0, 2 * _STEP)[number % 2 :][:1] if on_cpu else (0, 3 * _BLOCK)
        for tokens in (before + remainder for before in blocks):
            rows = [(tokens,), (tokens - 1, 1), (1, tokens - 1), (1, tokens - 2, 1)]
            lengths = rows[number % len(rows)] if tokens > 2 else (tokens,)
            yield replace(base, lengths=lengths, seed=tokens)
    whole = _BLOCK if on_cpu else 4 * _BLOCK
    yield replace(base, lengths=(whole,))
    yield replace(base, lengths=(1,) * (whole // 2))
    yield replace(base, lengths=(0, 60, 0, 0, whole - 60, 0), empty_slots=3)
    yield replace(base, lengths=(70, 100), bound=4096)
    yield replace(base, lengths=(70, 100), one_projection=True)
    for sizes in ((4.0, 1.0, 1.0), (0.02, 1.0, 1.0), (1.0, 30.0, 1.0), (1.0, 1.0, 0.01)):
        qk, v, grad = sizes
        yield replace(base, lengths=(90, 60), qk_size=qk, v_size=v, grad_size=grad)
    for scale in (0.1, 4.0):
        yield replace(base, lengths=(90, 60), scale=scale)
