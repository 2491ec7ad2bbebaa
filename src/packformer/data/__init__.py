"""Turns documents into packed rows. Each name is imported when it is first used."""

from typing import TYPE_CHECKING

from packformer.lazy import lazily

if TYPE_CHECKING:
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

if not TYPE_CHECKING:  # a checker would take any name for one of these
    __getattr__ = lazily(
        __name__,
        {
            "packformer.data.in_memory": ("Documents", "pack"),
            "packformer.data.module": ("PackedDataModule",),
            "packformer.data.random_documents": ("RandomDocuments",),
            "packformer.data.settings": ("PackingSettings",),
            "packformer.data.source": ("DataSplits",),
            "packformer.data.tasks": (
                *("AssociativeRecall", "Copying", "Sorting"),
                *("Task", "task_splits"),
            ),
            "packformer.data.text": ("StandardLibrary", "TextFiles"),
            "packformer.data.token_shards": ("TokenShards",),
        },
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
