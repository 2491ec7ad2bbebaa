"""Relative paths of a run's data: they begin where the run was started."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from packformer.bounded import read_json
from packformer.path_kind import path_kind
from packformer.run.resume import CONFIG_FILE, ENVIRONMENT_FILE

WORKING_FOLDER = "working_folder"
"""Key of ``environment.json``: the folder that relative paths of a run begin in."""
_PATHS = ("path", "tokenizer")  # of data


def working_folder_of(folder: Path) -> Path | None:
    """Where the run in ``folder`` was started; None for runs of packformer before 2026-11-27."""
    try:
        return Path(read_json(folder / ENVIRONMENT_FILE)[WORKING_FOLDER])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def with_own_paths(settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Settings of the run in ``folder``, with relative paths of data that lie where it was started.

    They are made absolute, unless this process was started there too. Others stay as they are.
    """
    started, data = working_folder_of(folder), settings.get("data")
    if started is None or started == Path.cwd() or not isinstance(data, Mapping):
        return dict(settings)

    def found(path: str) -> str:
        place = started / Path(path).expanduser()
        is_relative = "://" not in path and not Path(path).expanduser().is_absolute()
        return str(place) if is_relative and place.exists() else path

    own = {name: _each(found, data[name]) for name in _PATHS if name in data}
    return {**settings, "data": {**data, **own}}


def refuse_lost_data(settings: Mapping[str, Any], folder: Path, chosen: Collection[str]) -> None:
    """Refuses a run whose data are not to be found and are not given anew.

    Args:
        settings: that the run goes on with.
        folder: of the run.
        chosen: names of settings that the command line gives.

    Raises:
        ValueError: naming the path, and where it was looked for.
    """
    data = settings.get("data")
    target = data.get("_target_") if isinstance(data, Mapping) else None
    if target not in ("packformer.data.TextFiles", "packformer.data.TokenShards"):
        return
    assert isinstance(data, Mapping)
    for name in _PATHS:
        given = data.get(name)
        for path in given if isinstance(given, list) else [given]:
            if f"data.{name}" not in chosen and path is not None:
                _refuse_lost(f"data.{name}", str(path), folder)


def _refuse_lost(key: str, path: str, folder: Path) -> None:
    place = Path(path).expanduser()
    if "://" in path or place.exists():
        return
    where = ""
    if not place.is_absolute():
        started = working_folder_of(folder)
        where = " and is relative to the folder that the run was started in"
        if started is not None:
            where = f", neither here nor in {started}, where the run was started"
    raise ValueError(
        f"{key} {path}, which {folder / CONFIG_FILE} names, {path_kind(place)}{where}: give "
        f"{key}=PLACE"
    )


def _each(change: Callable[[str], str], value: Any) -> Any:
    """``change`` applied to a path, or to each of a list; other values as they are."""
    if isinstance(value, list):
        return [_each(change, one) for one in value]
    return change(value) if isinstance(value, str) else value
