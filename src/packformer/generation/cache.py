"""Keys and values of what was read and written, for the steps to come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from packformer.attention import PackedLayout
from packformer.model import GPT


@dataclass(frozen=True)
class Slots:
    """Where layers of one window keep the tokens of B sequences: beside each other, no padding.

    A sequence has one slot per token of its capacity, or per token of the window where that is
    shorter; then a new token takes the slot of the one that left the window.

    Attributes:
        starts: int64 ``[B]``, each sequence's first slot.
        sizes: int64 ``[B]``, its slots.
        largest: of ``sizes``.
        total: of all sequences.
        new: int64 ``[B]``, the slot of each sequence's new token.
        filled: int32 ``[B]``, the slots that hold a token, the new one's included.
    """

    starts: Tensor
    sizes: Tensor
    largest: int
    total: int
    new: Tensor
    filled: Tensor

    @classmethod
    def of(cls, capacities: Sequence[int], window: int | None, device: torch.device) -> Slots:
        """Slots for sequences of at most ``capacities`` tokens."""
        sizes = [n if window is None else min(n, window) for n in capacities]
        ends = torch.tensor(sizes, device=device).cumsum(0)
        sizes_B = torch.tensor(sizes, device=device)
        return cls(
            starts=ends - sizes_B,
            sizes=sizes_B,
            largest=max(sizes),
            total=sum(sizes),
            new=torch.zeros_like(sizes_B),
            filled=torch.zeros_like(sizes_B, dtype=torch.int32),
        )

    def move_to(self, positions_B: Tensor) -> None:
        """Sets ``new`` and ``filled`` for one new token of each sequence, by its position."""
        self.new.copy_(self.starts + positions_B % self.sizes)
        self.filled.copy_(torch.minimum(positions_B + 1, self.sizes))

    def positions(self, positions_B: Tensor, width: int) -> Tensor:
        """Which position each of the first ``width`` slots of a sequence holds, ``[B, width]``.

        Negative where a slot holds none.

        Args:
            positions_B: of the new token.
            width: slots of each sequence.
        """
        slot_C = torch.arange(width, device=positions_B.device)
        last_B1, sizes_B1 = positions_B[:, None], self.sizes[:, None]
        held_BC = last_B1 - (last_B1 - slot_C) % sizes_B1
        return held_BC.where(slot_C < sizes_B1, -1)


class KVCache:
    """Keys and values of all layers, for sequences that grow together.

    It holds G key/value heads, not H, and of a layer with a window no more than the window.

    Args:
        model: whose layers say how many heads, and what window, each has.
        capacities: tokens that each sequence may come to.
        dtype: of keys and values.
        device: where they lie.
    """

    def __init__(
        self,
        model: GPT,
        capacities: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        windows = dict.fromkeys(layer.window for layer in model.layers)
        by_window = {window: Slots.of(capacities, window, device) for window in windows}
        self.slots = [by_window[layer.window] for layer in model.layers]
        self.keys, self.values = (
            [
                torch.zeros(
                    (slots.total, layer.num_kv_heads, layer.head_dim), dtype=dtype, device=device
                )
                for layer, slots in zip(model.layers, self.slots, strict=True)
            ]
            for _ in range(2)
        )

    @property
    def num_bytes(self) -> int:
        """What the keys and values take."""
        return sum(x.untyped_storage().nbytes() for x in (*self.keys, *self.values))

    def write(self, layer: int, slots: Tensor, k_MGK: Tensor, v_MGK: Tensor) -> None:
        """Keeps keys and values of tokens in their slots, int64 ``[M]``."""
        self.keys[layer].index_copy_(0, slots, k_MGK)
        self.values[layer].index_copy_(0, slots, v_MGK)

    def places(self, layout: PackedLayout, sequences: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """For each layer, which tokens of a packed row are kept, and their slots.

        Args:
            layout: one document for each of ``sequences``, its beginning.
            sequences: their numbers.
        """
        lengths_S = layout.cu_seqlens.diff().long()
        of_token_M = torch.repeat_interleave(
            torch.tensor(sequences, device=lengths_S.device), lengths_S
        )
        ends_M = torch.repeat_interleave(lengths_S, lengths_S)
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for slots in self.slots:
            if id(slots) not in found:
                sizes_M = slots.sizes[of_token_M]
                kept = (layout.position_ids >= ends_M - sizes_M).nonzero().squeeze(1)
                slot_M = slots.starts[of_token_M] + layout.position_ids % sizes_M
                found[id(slots)] = (kept, slot_M[kept])
        return [found[id(slots)] for slots in self.slots]
