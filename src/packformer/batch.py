"""What travels from the data to the model: one packed row and its targets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from packformer.attention import PackedLayout

IGNORE_INDEX = -100
"""Target where nothing is to be predicted, as in ``torch.nn.functional.cross_entropy``."""


class PackedBatch:
    """One row of M tokens of packed documents.

    Not a dataclass, because Lightning walks through all fields of a dataclass at every step.

    Attributes:
        tokens: int64 ``[1, M]``; 0 in the padding at the end.
        targets: int64 ``[1, M]``, the next token of the same document, or ``IGNORE_INDEX`` at each
            document's last token, in the padding, and where a task wants nothing predicted.
        layout: where each document lies; padding is treated as further documents.
        num_tokens: tokens of documents, padding left out.
        num_targets: tokens that count in the loss.
        lengths: tokens of each document, or piece of a split one, padding left out; of each block
            where blocks take the place of documents.
        packer_state: of the packer after the last whole optimizer step, this row included, for the
            checkpoint; plain types only. None before the first step is whole.
        corpus: number of the corpus that a validation row comes from.
        pieces: number of each document in the row, and the first of its tokens that lies there.
    """

    def __init__(
        self,
        tokens: Tensor,
        targets: Tensor,
        layout: PackedLayout,
        *,
        num_tokens: int,
        num_targets: int,
        lengths: tuple[int, ...],
        packer_state: dict[str, Any] | None,
        corpus: int = 0,
        pieces: tuple[tuple[int, int], ...] = (),
    ) -> None:
        self.tokens = tokens
        self.targets = targets
        self.layout = layout
        self.num_tokens = num_tokens
        self.num_targets = num_targets
        self.lengths = lengths
        self.packer_state = packer_state
        self.corpus = corpus
        self.pieces = pieces

    def _with(self, tokens: Tensor, targets: Tensor, layout: PackedLayout) -> PackedBatch:
        return PackedBatch(
            tokens,
            targets,
            layout,
            num_tokens=self.num_tokens,
            num_targets=self.num_targets,
            lengths=self.lengths,
            packer_state=self.packer_state,
            corpus=self.corpus,
            pieces=self.pieces,
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PackedBatch:
        """Copy on ``device``; Lightning calls it."""
        return self._with(
            self.tokens.to(device, non_blocking=non_blocking),
            self.targets.to(device, non_blocking=non_blocking),
            self.layout.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> PackedBatch:
        """Copy in page-locked memory; the data loader calls it."""
        return self._with(
            self.tokens.pin_memory(), self.targets.pin_memory(), self.layout.pin_memory()
        )
