"""The packer of a policy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from packformer.data.concatenating import ConcatenatingPacker
from packformer.data.packing import BestFitPacker, PackerState, Piece
from packformer.data.settings import PackingSettings
from packformer.data.source import DocumentSource


class Packer(Protocol):
    """Makes rows of pieces; everything that a later row depends on is in its state."""

    def rows(self, state: PackerState) -> Iterator[list[Piece]]:
        """Rows from ``state`` on, which is kept up to date."""
        ...


def make_packer(
    source: DocumentSource,
    settings: PackingSettings,
    *,
    max_documents: int,
    seed: int | None,
    epochs: int | None = None,
) -> Packer:
    """The packer of ``settings.policy``; arguments as of ``BestFitPacker``."""
    packer = ConcatenatingPacker if settings.cuts else BestFitPacker
    return packer(source, settings, max_documents=max_documents, seed=seed, epochs=epochs)
