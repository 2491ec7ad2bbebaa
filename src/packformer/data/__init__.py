"""Documents in, packed rows out."""

from packformer.data.in_memory import Documents, pack
from packformer.data.module import PackedDataModule
from packformer.data.random_documents import RandomDocuments
from packformer.data.settings import PackingSettings
from packformer.data.source import DataSplits
from packformer.data.tasks import AssociativeRecall, Copying, Sorting, Task, task_splits
from packformer.data.text import StandardLibrary, TextFiles
from packformer.data.token_shards import TokenShards

__all__ = [
    "AssociativeRecall",
    "Copying",
    "DataSplits",
    "Documents",
    "PackedDataModule",
    "PackingSettings",
    "RandomDocuments",
    "Sorting",
    "StandardLibrary",
    "Task",
    "TextFiles",
    "TokenShards",
    "pack",
    "task_splits",
]
