"""Documents in, packed rows out."""

from packformer.data.in_memory import pack
from packformer.data.module import PackedDataModule
from packformer.data.random_documents import RandomDocuments
from packformer.data.settings import PackingSettings
from packformer.data.tasks import AssociativeRecall, Copying, Sorting
from packformer.data.text import StandardLibrary, TextFiles
from packformer.data.token_shards import TokenShards

__all__ = [
    "AssociativeRecall",
    "Copying",
    "PackedDataModule",
    "PackingSettings",
    "RandomDocuments",
    "Sorting",
    "StandardLibrary",
    "TextFiles",
    "TokenShards",
    "pack",
]
