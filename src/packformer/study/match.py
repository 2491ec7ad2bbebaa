"""Which value of a setting gives a variant the size of a reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

TOLERANCE = 0.005
"""By how much sizes may differ, as a share of the reference's."""

QUANTITIES = {
    "parameters": "parameters",
    "flops": "training flops per token",
    "kv_bytes": "KV-cache bytes per token",
}
"""What can be matched, with its unit in words."""


@dataclass(frozen=True)
class Size:
    """How large a model is; parameters and flops are without embedding and head.

    So are tables of value embeddings: these numbers do not depend on the vocabulary. Where
    embedding, head and tables are alike, the totals are closer to each other than these numbers.

    Attributes:
        parameters: outside of embedding, head and tables.
        flops: of forward and backward per token, without the head, in documents of the longest
            length of training.
        kv_bytes: that generation keeps per token of such a document, in bfloat16.
        per_token_id: numbers that each token id has in embedding, head and tables.
    """

    parameters: int
    flops: int
    kv_bytes: int
    per_token_id: int = 0


@dataclass(frozen=True)
class Match:
    """How a variant was made as large as the reference.

    Attributes:
        name: of the variant.
        quantity: that is matched, of ``QUANTITIES``.
        setting: that was changed; None if nothing had to be.
        before: its value in the variant.
        value: its value now.
        size: of the variant now.
        wanted: size of the reference.
    """

    name: str
    quantity: str
    setting: str | None
    before: int
    value: int
    size: Size
    wanted: Size

    @property
    def overrides(self) -> tuple[str, ...]:
        """For the command line, after those of the variant."""
        return () if self.setting is None else (f"{self.setting}={self.value}",)

    def added_to(self, overrides: Sequence[str]) -> tuple[str, ...]:
        """The overrides of the variant, in which the match replaces what they say of its setting.

        Args:
            overrides: of the variant.
        """
        kept = [one for one in overrides if one.lstrip("+").partition("=")[0] != self.setting]
        return (*kept, *self.overrides)

    def __str__(self) -> str:
        changed = f"{self.setting} {self.before:,} -> {self.value:,}"
        told = [f"{self.name}: {'as it is' if self.setting is None else changed}"]
        for quantity in dict.fromkeys([self.quantity, "parameters"]):
            found, wanted = getattr(self.size, quantity), getattr(self.wanted, quantity)
            told.append(
                f"{QUANTITIES[quantity]} {found:,} against {wanted:,}, "
                f"{difference(found, wanted):+.1%}"
            )
        return ", ".join(told)

    @property
    def in_full(self) -> str:
        """``str`` of it, with what its parameters leave out, and all where that differs."""
        told = f"{self} (without embedding, head and tables)"
        if self.size.per_token_id == self.wanted.per_token_id:
            return told
        return f"{told}; with them {_whole(self.size)} against {_whole(self.wanted)}"


def _whole(size: Size) -> str:
    return f"{size.parameters:,} + {size.per_token_id:,} per token id"


def difference(found: int, wanted: int) -> float:
    """As a share of ``wanted``."""
    return found / wanted - 1


def is_match(found: int, wanted: int) -> bool:
    """Whether ``found`` differs by no more than ``TOLERANCE``."""
    return abs(found - wanted) <= TOLERANCE * wanted


def nearest(measure: Callable[[int], int], values: Sequence[int], wanted: int) -> int:
    """The value whose measure is nearest to ``wanted``.

    Args:
        measure: does not fall where the value rises; asked about log2 of ``values``.
        values: rising, at least one.
        wanted: the measure to come near to.
    """
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high) // 2
        if measure(values[middle]) < wanted:
            low = middle + 1
        else:
            high = middle
    around = values[max(0, low - 1) : low + 1]
    return min(around, key=lambda value: abs(measure(value) - wanted))


def matching_value(
    setting: str, measure: Callable[[int], int], choices: Sequence[Sequence[int]], wanted: int
) -> int:
    """The first value found whose measure is ``wanted`` within ``TOLERANCE``.

    Args:
        setting: for the message.
        measure: of a value.
        choices: rising values, those that one prefers first: multiples of 64 before others.
        wanted: the measure to reach.

    Raises:
        ValueError: if no value will do; names the nearest.
    """
    measure = cache(measure)
    tried = []
    for values in choices:
        value = nearest(measure, values, wanted)
        if is_match(measure(value), wanted):
            return value
        tried.append(value)
    best = min(tried, key=lambda value: abs(measure(value) - wanted))
    raise ValueError(
        f"no {setting} comes within {TOLERANCE:.1%} of {wanted:,}: the nearest, {best:,}, gives "
        f"{measure(best):,} ({difference(measure(best), wanted):+.1%})"
    )
