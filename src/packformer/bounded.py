"""Reads small files that may come from anyone: of bounded size and depth, or a ``ValueError``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

MEBIBYTE = 2**20
_DEEPEST = 64  # levels of a configuration
_MOST_NODES = 500_000
_SHOWN = 60  # characters of a value in a message
_OF_VALIDATION = "val/"
_NUMBERS = (  # of a run's summary
    *("steps", "skipped_steps", "tokens_seen", "flops", "tokens_per_second", "fill", "data_wait"),
    *("tokens_per_second_per_device", "rank_wait", "imbalance", "parameters", "seconds"),
    *("kv_cache_bytes_per_token", "kv_cache_bytes", "kv_cache_context"),
    *("kv_cache_bytes_of_windows", "peak_memory_bytes"),
)
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_bounded(file: Path, most_bytes: int) -> bytes:
    """All of a regular file.

    Raises:
        ValueError: if it is none, or larger.
        OSError: if it cannot be read.
    """
    if not file.is_file():
        what = "is no file" if file.exists() else "does not exist"
        raise ValueError(f"{file} {what}")
    with file.open("rb") as stream:
        content = stream.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"{file} is larger than the {most_bytes:,} bytes that such a file may be")
    return content


def read_json(file: Path, most_bytes: int = 64 * MEBIBYTE) -> Any:
    """The content of a file of JSON; raises as ``read_bounded``, and as ``parse_json``."""
    return parse_json(read_bounded(file, most_bytes))


def parse_json(text: str | bytes) -> Any:
    """What JSON means.

    Raises:
        ValueError: if it is none, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_yaml(file: Path, most_bytes: int = MEBIBYTE) -> Any:
    """The content of a file of YAML, plain types only.

    Raises:
        ValueError: if it is none, larger, nested too deeply, or repeats parts by aliases: a few
            lines of them stand for any number of values.
        OSError: if it cannot be read.
    """
    text = read_bounded(file, most_bytes)
    try:
        _check_shape(text)
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", line {mark.line + 1}"
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ValueError(f"{file}{where}, is no YAML: {reason}") from error
    except RecursionError:
        raise ValueError(f"{file} is nested too deeply") from None


def _check_shape(text: bytes) -> None:
    depth = 0
    for number, event in enumerate(yaml.parse(text, _Loader)):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise yaml.YAMLError(f"it is nested more than {_DEEPEST} levels deep")
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*), which configurations of runs do not")
        if number > _MOST_NODES:
            raise yaml.YAMLError("it has too many values")


def wrong_number(summary: Mapping[str, Any]) -> str | None:
    """What a run's summary has in place of a number: ``steps (abc) must be a number or null``.

    None if every number of it is one. Not finite ones are, too.
    """
    for name, value in summary.items():
        if not name.startswith(_OF_VALIDATION) and name not in _NUMBERS:
            continue
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            return f"{name} ({str(value)[:_SHOWN]}) must be a number or null"
    return None


def check_in_its_folder(file: Path, folder: Path | None = None) -> None:
    """Refuses a link out of the folder that a file is in; the folder itself may be a link.

    Args:
        file: to be read.
        folder: that it may lie in; its own if None.

    Raises:
        ValueError: naming both.
    """
    place = file.resolve()
    if not place.is_relative_to((folder or file.parent).resolve()):
        raise ValueError(
            f"{file} is a link out of its folder, to {place}, which is not followed: copy the file "
            "there"
        )
