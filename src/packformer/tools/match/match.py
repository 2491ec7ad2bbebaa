"""Matches variants to the size of a reference, by building them without memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from packformer.command_line.composition import compose
from packformer.command_line.variants import Variant
from packformer.model import GPT
from packformer.model.flops import (
    attention_flops,
    matrix_weights,
    product_flops,
    score_products,
)
from packformer.run.build import make_model, make_packing
from packformer.study.match import QUANTITIES, Match, Size, is_match, matching_value

_WIDEST = 2**20
_Lever = tuple[str, str, int, Sequence[Sequence[int]]]
"""Group and name of a setting, its value, and lists of those it may have, rising."""


def match_variants(variants: Sequence[Variant], reference: str, quantity: str) -> list[Match]:
    """How each variant becomes as large as the reference.

    Parameters and flops are matched by ``model.hidden_width``, a multiple of 64 where one will do.
    It has no part in the cache. KV-cache bytes are matched by ``attention.num_kv_heads`` where
    variant and reference share heads alike, and else by ``model.num_layers``, as other heads would
    undo what makes the variant. What that does to the parameters is told. Tables of value
    embeddings are left out, like embedding and head. So parameters are matched only where variant
    and reference have as many numbers in them.

    Args:
        variants: to match; in each, settings as of ``packformer train``.
        reference: name of one of them.
        quantity: one of ``QUANTITIES``.

    Returns:
        One match per variant, in their order; the reference stays as it is.

    Raises:
        ValueError: if a variant cannot be matched; says what came nearest.
    """
    if quantity not in QUANTITIES:
        raise ValueError(f"match ({quantity}) must be one of {', '.join(QUANTITIES)}")
    settings = {variant.name: variant.overrides for variant in variants}
    if reference not in settings:
        raise ValueError(f"reference ({reference}) must be one of {', '.join(settings)}")
    standard = _Sized(settings[reference])
    return [_matched(name, _Sized(own), standard, quantity) for name, own in settings.items()]


class _Sized:
    """A variant's configuration, and its size as that changes."""

    def __init__(self, overrides: Sequence[str]) -> None:
        self._config: Any = compose(overrides)
        self._max_position = make_packing(self._config).max_seqlen
        self.model = self._built()

    def _built(self) -> GPT:
        with torch.device("meta"):
            return make_model(self._config, 1, self._max_position)

    def with_value(self, group: str, name: str, value: int) -> Size:
        """The size with another value of a setting, which stays."""
        self._config[group][name] = value
        self.model = self._built()
        return self.size

    @property
    def has_pattern(self) -> bool:
        """Whether layers differ."""
        return (self._config.get("layers") or {}).get("pattern") is not None

    @property
    def size(self) -> Size:
        model, length = self.model, self._max_position
        of_ends = model.embedding.weight.numel()  # of one token id
        of_ends += model.head.weight.numel() * (model.head.weight is not model.embedding.weight)
        of_ends += self.of_tables
        weights = matrix_weights(model) - model.head.weight.numel()
        row = self._config["packing"]["row_length"]  # layers may attend across it
        full, rest = divmod(row, length)
        lengths = [length] * full + [rest] * (rest > 0)
        flops = product_flops(weights, row) + attention_flops(score_products(model, lengths))
        return Size(
            parameters=model.num_parameters() - of_ends,
            flops=flops // row,
            kv_bytes=model.kv_cache_bytes(length) // length,
            per_token_id=of_ends,
        )

    @property
    def of_tables(self) -> int:
        """Numbers that a token has in the tables of value embeddings."""
        return sum(values.table.embedding_dim for values in self.model.value_embeddings)

    @property
    def ends(self) -> tuple[int, bool]:
        """What embedding and head depend on, beside the vocabulary."""
        return self.model.width, self.model.head.weight is self.model.embedding.weight


def _matched(name: str, variant: _Sized, standard: _Sized, quantity: str) -> Match:
    wanted = standard.size
    found: int = getattr(variant.size, quantity)
    if quantity != "kv_bytes" and variant.ends != standard.ends:
        raise ValueError(
            f"{name} cannot be matched: its model.width or model.tie_embeddings is not the "
            "reference's, so embedding and head differ"
        )
    if quantity == "parameters" and variant.of_tables != standard.of_tables:
        raise ValueError(
            f"{name} cannot be matched in parameters: its tables have {variant.of_tables:,} "
            f"numbers per token id and the reference's {standard.of_tables:,}, and the size of the "
            "vocabulary is not known here. Match flops instead: looking up tables costs none"
        )
    if is_match(found, getattr(wanted, quantity)):
        return Match(name, quantity, None, 0, 0, variant.size, wanted)
    refusal = ""
    for lever in _levers(variant, standard, quantity):
        try:
            return _by(lever, name, variant, wanted, quantity)
        except ValueError as error:
            refusal = str(error)
    raise ValueError(f"{name} cannot be matched in {QUANTITIES[quantity]}: {refusal}")


def _by(lever: _Lever, name: str, variant: _Sized, wanted: Size, quantity: str) -> Match:
    group, setting, before, choices = lever

    def measure(value: int) -> int:
        return int(getattr(variant.with_value(group, setting, value), quantity))

    place = f"{group}.{setting}"
    try:
        value = matching_value(place, measure, choices, getattr(wanted, quantity))
    except ValueError:
        variant.with_value(group, setting, before)
        raise
    size = variant.with_value(group, setting, value)
    return Match(name, quantity, place, before, value, size, wanted)


def _levers(variant: _Sized, standard: _Sized, quantity: str) -> list[_Lever]:
    """What may be changed, the first choice first."""
    model = variant.model
    if quantity != "kv_bytes":
        widths = [range(step, _WIDEST + 1, step) for step in (64, 8, 1)]
        return [("model", "hidden_width", model.hidden_width, widths)]
    first, depth = model.layers[0], len(model.blocks)
    deepest = depth + 2 * math.ceil(depth * standard.size.kv_bytes / variant.size.kv_bytes)
    levers: list[_Lever] = [("model", "num_layers", depth, [range(1, deepest + 1)])]
    if _shared(model) == _shared(standard.model) and not variant.has_pattern:
        heads = [n for n in range(1, first.num_heads + 1) if first.num_heads % n == 0]
        levers.insert(0, ("attention", "num_kv_heads", first.num_kv_heads, [heads]))
    return levers


def _shared(model: GPT) -> list[float]:
    """Query heads to a key/value head, in layers that differ in it."""
    return sorted({layer.num_heads / layer.num_kv_heads for layer in model.layers})
