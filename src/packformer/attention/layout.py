"""Where each document lies in a packed row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from packformer.attention.load_xformers import load_fmha
from packformer.counted import counted

if TYPE_CHECKING:
    from xformers.ops.fmha.attn_bias import BlockDiagonalCausalMask


@dataclass(frozen=True)
class PackedLayout:
    """Document boundaries of one packed row of M tokens, in S slots.

    S and ``max_seqlen`` are constants of a run, so that a compiled step sees one shape: slots that
    hold no document are zero-length documents at the end.

    Attributes:
        cu_seqlens: int32 ``[S + 1]``, ascending from 0 to M; document ``s`` is the half-open range
            ``cu_seqlens[s]:cu_seqlens[s + 1]``.
        position_ids: int64 ``[M]``, each token's position in its own document, from 0.
        max_seqlen: upper bound, in tokens, of every document's length.
    """

    cu_seqlens: Tensor
    position_ids: Tensor
    max_seqlen: int

    @classmethod
    def from_lengths(
        cls,
        lengths: Sequence[int] | Tensor | NDArray[np.integer],
        *,
        num_slots: int | None = None,
        max_seqlen: int | None = None,
    ) -> PackedLayout:
        """Lays out documents of ``lengths`` tokens one after another.

        Args:
            lengths: tokens of each document, in row order; a tensor is copied from its device.
            num_slots: S; by default the number of documents.
            max_seqlen: by default the longest of ``lengths``.

        Raises:
            ValueError: if there is no token, a length is negative, or a bound is exceeded.
        """
        if isinstance(lengths, Tensor | np.ndarray):
            lengths = lengths.tolist()
        if not isinstance(lengths, Sequence) or not all(
            isinstance(n, int | np.integer) and not isinstance(n, bool) for n in lengths
        ):
            raise ValueError(f"lengths ({lengths}) must be whole numbers, one for each document")
        num_slots = len(lengths) if num_slots is None else num_slots
        longest = int(max(lengths, default=0))
        max_seqlen = longest if max_seqlen is None else max_seqlen
        if longest < 1 or min(lengths) < 0:
            raise ValueError(f"lengths ({list(lengths)}) must be >= 0 and hold at least one token")
        if len(lengths) > num_slots:
            found = counted(len(lengths), "document")
            raise ValueError(f"{found} cannot fit in num_slots ({num_slots}): raise it")
        if longest > max_seqlen:
            raise ValueError(f"longest document ({longest}) exceeds max_seqlen ({max_seqlen})")
        # In numpy: torch would wake its threads for these few numbers, in every loader process.
        lengths_S = np.zeros(num_slots, dtype=np.int64)
        lengths_S[: len(lengths)] = lengths
        ends_S = lengths_S.cumsum()
        position_ids = np.arange(ends_S[-1]) - np.repeat(ends_S - lengths_S, lengths_S)
        return cls(
            cu_seqlens=torch.from_numpy(np.concatenate([[0], ends_S]).astype(np.int32)),
            position_ids=torch.from_numpy(position_ids),
            max_seqlen=max_seqlen,
        )

    def as_one_document(self) -> PackedLayout:
        """The same row as a single document: positions count through it, padding included.

        Every kernel then attends across documents. Padding lies at the end, where no document's
        token sees it.
        """
        position_ids = torch.arange(self.num_tokens, device=self.position_ids.device)
        bounds = torch.zeros(2, dtype=torch.int32, device=position_ids.device)
        bounds[1:] = self.num_tokens
        return PackedLayout(bounds, position_ids, self.num_tokens)

    @property
    def num_tokens(self) -> int:
        """M, the tokens of the row, padding included."""
        return self.position_ids.shape[0]

    @property
    def num_slots(self) -> int:
        """S, the documents the row has room for."""
        return self.cu_seqlens.shape[0] - 1

    def lengths(self) -> list[int]:
        """Tokens of each document, empty slots left out (copies from the device)."""
        return [n for n in self.cu_seqlens.diff().tolist() if n]

    def block_diagonal_causal_mask(self) -> BlockDiagonalCausalMask:
        """The same layout as xFormers' ``BlockDiagonalCausalMask`` (copies from the device)."""
        mask_class = load_fmha().attn_bias.BlockDiagonalCausalMask
        return mask_class.from_seqlens(self.lengths(), device=self.cu_seqlens.device)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PackedLayout:
        """Copy on ``device``."""
        return PackedLayout(
            self.cu_seqlens.to(device, non_blocking=non_blocking),
            self.position_ids.to(device, non_blocking=non_blocking),
            self.max_seqlen,
        )

    def pin_memory(self) -> PackedLayout:
        """Copy in page-locked memory, for asynchronous transfers to a GPU."""
        return PackedLayout(
            self.cu_seqlens.pin_memory(), self.position_ids.pin_memory(), self.max_seqlen
        )


def document_slices(cu_seqlens: Tensor) -> Iterator[slice]:
    """Where each document lies, empty slots left out (copies from the device)."""
    bounds = cu_seqlens.tolist()
    for start, end in zip(bounds, bounds[1:], strict=False):
        if end > start:
            yield slice(start, end)
