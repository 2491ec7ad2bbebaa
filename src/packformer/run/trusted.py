"""What the configuration in a run folder may name: code of packformer's, the run's own folder, and
code and places that the user has trained with or trusts.

A run folder may come from anyone, and its ``config.yaml`` names classes to import and folders to
write to.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packformer.cache import cache_folder, fingerprint

VARIABLE = "PACKFORMER_TRUST"
"""Of the environment: packages, names in them, or folders, separated by commas."""
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
_WRITING = ("callbacks", "logger")  # groups whose classes write files or send metrics
_OF_LIGHTNING = "lightning."
_PLACES = ("dir", "dirpath", "path", "uri", "url")  # ends of settings that name where
_LEADS_OUT = re.compile(r"[/~]|(.*/)?\.\.(/|$)|.*://", re.DOTALL)
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


def refuse_foreign_places(settings: Mapping[str, Any], file: Path) -> None:
    """Refuses a configuration whose callbacks or loggers would write outside of the run's folder.

    Args:
        settings: from a run folder, as plain types.
        file: that they were read from.

    Raises:
        ValueError: naming the setting, and how to trust it.
    """
    for place, value in _places(settings):
        if not _is_trusted_place(value):
            raise ValueError(
                f"{file}: {place} ({value}) leads out of the run's folder, and was not trained "
                f"with here: if you trust it, set {VARIABLE}={value}"
            )


def trust(settings: Mapping[str, Any]) -> None:
    """Remembers the code and the places that the user trains with, so that the run can be opened
    later.

    Where the cache cannot be written, ``PACKFORMER_TRUST`` has to say it.
    """
    names = [
        value
        for _, key, value in _strings(settings, "")
        if _is_name(key, value) and not _KNOWN.fullmatch(value)
    ]
    for trusted in (*names, *(_as_place(value) for _, value in _places(settings))):
        try:
            (cache_folder() / _FOLDER).mkdir(parents=True, exist_ok=True)
            _marker(trusted).touch()
        except (OSError, ValueError):
            return


def _is_name(key: str, value: str) -> bool:
    return key == "_target_" or (key in _NAMES and "." in value)


def _is_trusted(name: str) -> bool:
    if _KNOWN.fullmatch(name):
        return True
    if any(name == entry or name.startswith(f"{entry}.") for entry in _listed()):
        return True
    return _is_marked(name)


def _is_trusted_place(value: str) -> bool:
    below = any(value == entry or _is_below(value, entry) for entry in _listed())
    return below or _is_marked(_as_place(value))


def _is_below(value: str, folder: str) -> bool:
    return ".." not in Path(value).parts and Path(value).is_relative_to(folder)


def _listed() -> list[str]:
    entries = [entry.strip() for entry in os.environ.get(VARIABLE, "").split(",")]
    return [entry for entry in entries if entry]


def _is_marked(trusted: str) -> bool:
    try:
        return _marker(trusted).is_file()
    except (OSError, ValueError):
        return False


def _as_place(value: str) -> str:
    """What is remembered of a place, which is no name of code."""
    return f"place {value}"


def _places(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Settings of Lightning's callbacks and loggers that lead out of the run's folder."""
    for group in _WRITING:
        held = settings.get(group)
        if not isinstance(held, Mapping):
            continue
        nodes = (
            {group: held} if "_target_" in held else {f"{group}.{n}": v for n, v in held.items()}
        )
        for name, node in nodes.items():
            if not isinstance(node, Mapping):
                continue
            if not str(node.get("_target_")).startswith(_OF_LIGHTNING):
                continue  # packformer's write to the run's folder; the user's are trusted or not
            for place, key, value in _strings(node, name):
                if key.endswith(_PLACES) or _LEADS_OUT.match(value):
                    yield place, value


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
