"""What the configuration in a run folder may name to be imported: code of packformer's, and code
that the user has trained with or trusts.

A run folder may come from anyone, and its ``config.yaml`` names classes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packformer.cache import cache_folder, fingerprint

VARIABLE = "PACKFORMER_TRUST"
"""Of the environment: packages, or names in them, separated by commas."""
_NAMES = ("_target_", "score_mod", "kernel")  # settings that name what is imported
_KNOWN = re.compile(
    r"packformer\.(?:"
    r"model\.(?:GPT|SelfAttention)"
    r"|nn\.(?:ALiBi|Learned|NoPosition|Rotary)"
    r"|data\.(?:AssociativeRecall|Copying|PackedDataModule|PackingSettings|RandomDocuments|Sorting"
    r"|StandardLibrary|TextFiles|TokenShards)"
    r"|run\.samples\.Samples|run\.wandb\.wandb_logger"
    r"|training\.(?:DDP|FSDP2|LastCheckpoint|StepRecords|adamw|constant|muon|warmup_cosine"
    r"|warmup_stable_decay)"
    r")"
    r"|lightning\.pytorch\.(?:callbacks|loggers)\.[A-Z]\w*"
    r"|torch\.optim\.(?:lr_scheduler\.)?[A-Z]\w*"
)
_FOLDER = "trusted"  # of the cache


def refuse_foreign_names(settings: Mapping[str, Any], file: Path) -> None:
    """Refuses a configuration that names code which is neither packformer's nor the user's.

    Nothing is imported.

    Args:
        settings: from a run folder, as plain types.
        file: that they were read from.

    Raises:
        ValueError: naming the setting, and how to trust it.
    """
    for place, key, value in _strings(settings, ""):
        if re.search(r"(?<!\\)(\\\\)*\$\{", value):
            raise ValueError(
                f"{file}: {place} ({value}) is an interpolation, which the configuration of a run "
                "does not have: copy it from the run again"
            )
        if _is_name(key, value) and not _is_trusted(value):
            package = value.partition(".")[0]
            raise ValueError(
                f"{file}: {place} ({value}) is not packformer's, and was not trained with here: "
                f"nothing of it was imported; if you trust that code, set {VARIABLE}={package}"
            )


def trust(settings: Mapping[str, Any]) -> None:
    """Remembers the code that the user trains with, so that the run can be opened later.

    Where the cache cannot be written, ``PACKFORMER_TRUST`` has to say it.
    """
    for _, key, value in _strings(settings, ""):
        if _is_name(key, value) and not _KNOWN.fullmatch(value):
            try:
                (cache_folder() / _FOLDER).mkdir(parents=True, exist_ok=True)
                _marker(value).touch()
            except (OSError, ValueError):
                return


def _is_name(key: str, value: str) -> bool:
    return key == "_target_" or (key in _NAMES and "." in value)


def _is_trusted(name: str) -> bool:
    if _KNOWN.fullmatch(name):
        return True
    listed = [entry.strip() for entry in os.environ.get(VARIABLE, "").split(",")]
    if any(entry and (name == entry or name.startswith(f"{entry}.")) for entry in listed):
        return True
    try:
        return _marker(name).is_file()
    except (OSError, ValueError):
        return False


def _marker(name: str) -> Path:
    return cache_folder() / _FOLDER / fingerprint([name])


def _strings(node: Any, place: str) -> Iterator[tuple[str, str, str]]:
    """Place, key and value of all text."""
    children: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(node, Mapping):
        children = iter(node.items())
    elif isinstance(node, list):
        children = iter(enumerate(node))
    for key, child in children:
        below = f"{place}.{key}" if place else str(key)
        if isinstance(child, str):
            yield below, str(key), child
        else:
            yield from _strings(child, below)
