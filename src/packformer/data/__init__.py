"""Documents in, packed rows out."""

from packformer.data.module import PackedDataModule
from packformer.data.packing import PackingSettings
from packformer.data.random_documents import RandomDocuments
from packformer.data.tasks import AssociativeRecall, Copying, Sorting
from packformer.data.text import StandardLibrary, TextFiles

__all__ = [
    "AssociativeRecall",
    "Copying",
    "PackedDataModule",
    "PackingSettings",
    "RandomDocuments",
    "Sorting",
    "StandardLibrary",
    "TextFiles",
]
