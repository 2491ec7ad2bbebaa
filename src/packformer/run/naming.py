"""What a run is called, and its folder."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from packformer.run.of_sweep import fixed_settings
from packformer.settings import as_text

_NOT_IN_NAME = (
    "experiment",
    "sweep",
    "resume",
    "output_dir",
    "logger",
    "callbacks",
    "hydra",
    "name",
)
_FOLDER_NAME = re.compile(r"\w[\w .+=-]*")
# Characters, at most: W&B takes 128; file systems 255 bytes, with the time and the experiment.
_IN_NAME, _IN_FOLDER, _OF_VALUE = 128, 64, 32
_CUT = "..."  # stands for what was cut off, also where a letter outside ASCII cannot be shown
_NUMBER = re.compile(r"[-+]?\d[\d.,_]*(?:e[-+]?\d+)?", re.IGNORECASE)
_OF_NUMBER = 6  # digits that are shown of a number in a sweep
_DIGITS = 6  # of a hash that stands for what was cut off


def run_name(config: DictConfig) -> str:
    """The experiment and what the command line changed of it: at most 128 characters.

    In a sweep only what its jobs differ in is told, with short keys: ``gqa learning_rate=0.001``.
    """
    return name_of(str(config.name), HydraConfig.get().overrides.task)


def name_of(name: str, overrides: Sequence[str]) -> str:
    """As ``run_name``, of a run whose ``name`` and overrides are given."""
    if (fixed := fixed_settings()) is not None:
        return _name_in_sweep(name, _swept(overrides, fixed, name))
    told = _told(overrides)
    words = [f"{key}={_short(value)}" for key, value in told]
    lost = any(_short(value) != _plain(value) for _, value in told)
    return _cut(" ".join([name, *words]), _IN_NAME, _source(told), lost=lost)


def folder_suffix(overrides: Sequence[str], mode: object, name: str = "") -> str:
    """What tells a run's folder from others: ``_path-wiki_max_steps-50``, or nothing.

    Args:
        overrides: of the run.
        mode: Hydra's; in a sweep only what its jobs differ in is told.
        name: of the run, which stands before the suffix.
    """
    fixed = fixed_settings() if "MULTIRUN" in str(mode) else None
    told = _told(overrides) if fixed is None else _swept(overrides, fixed, name)
    exact = "".join(f"_{key.rpartition('.')[2]}-{value}" for key, value in told)
    short = "".join(f"_{key.rpartition('.')[2]}-{_short(value).strip('/')}" for key, value in told)
    shown = re.sub(r"[^\w.-]+", "-", short)
    return _cut(shown, _IN_FOLDER, _source(told), lost=shown != exact)


def register_folder_suffix() -> None:
    """Makes ``${folder_suffix:OVERRIDES,MODE,NAME}`` known to configurations."""
    OmegaConf.register_new_resolver("folder_suffix", folder_suffix, replace=True)


def _told(overrides: Sequence[str]) -> list[tuple[str, str]]:
    """Keys and values that belong in a name; if a key is given twice, its last value."""
    return [(key, value) for key, value in _last(overrides).items() if _is_told(key, value)]


def _last(overrides: Sequence[str]) -> dict[str, str]:
    last = {}
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        last[key] = "null" if override.startswith("~") else value
    return last


def _swept(overrides: Sequence[str], fixed: Sequence[str], name: str) -> list[tuple[str, str]]:
    """Keys and values that jobs differ in; an experiment that gave the run its name is left out."""
    return [
        (key, value)
        for key, value in _last(overrides).items()
        if key not in fixed and key != "name" and (key, value) != ("experiment", name)
    ]


def _name_in_sweep(name: str, told: Sequence[tuple[str, str]]) -> str:
    ends = [key.rpartition(".")[2] for key, _ in told]
    labels = [key if ends.count(end) > 1 else end for (key, _), end in zip(told, ends, strict=True)]
    texts = [_text(value) for _, value in told]
    short = [text if len(text) <= _OF_VALUE else _short(text) for text in texts]
    words = [f"{label}={text}" for label, text in zip(labels, short, strict=True)]
    whole = " ".join([name, *words])
    shown = " ".join(whole.split())
    return _cut(shown, _IN_NAME, _source(told), lost=short != texts or shown != whole)


def _text(value: str) -> str:
    """A value as it is meant: text without quotes, a number in few digits."""
    parsed = OverridesParser.create().parse_override(f"x={value}").value()
    if isinstance(parsed, str):
        return parsed
    return f"{parsed:.{_OF_NUMBER}g}" if isinstance(parsed, float) else value


def _is_told(key: str, value: str) -> bool:
    without_callback = key.startswith("callbacks.") and key.count(".") == 1 and value == "null"
    return without_callback or key.split(".")[0] not in _NOT_IN_NAME


def _source(told: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"{key}={value}" for key, value in told)


def _plain(value: str) -> str:
    return value.rstrip("/")


def _short(value: str) -> str:
    """``value``, or ``...`` and its end: of a path as many of its last parts as fit."""
    plain = re.sub(r"\s+", "_", _plain(value.strip("[]{}'\" ")))
    if len(plain) <= _OF_VALUE:
        return plain
    start = len(plain) - _OF_VALUE
    if (part := plain.find("/", start - 1)) >= 0:
        return _CUT + plain[part:]
    inside = next((n for n in _NUMBER.finditer(plain) if n.start() < start < n.end()), None)
    return _CUT + plain[start if inside is None else inside.end() :]


def _cut(text: str, length: int, source: str, *, lost: bool) -> str:
    """``text``, cut if too long; ends with a hash of ``source`` if it does not show all of it."""
    if len(text) <= length and not lost:
        return text
    digest = hashlib.sha256(source.encode(errors="surrogateescape")).hexdigest()[:_DIGITS]
    return f"{_within(text, length - _DIGITS - 1)}-{digest}"


def _within(text: str, length: int) -> str:
    """``text``, or its beginning, which ends before a number rather than within it, and ``...``."""
    if len(text) <= length:
        return text
    end = length - len(_CUT)
    inside = next((n for n in _NUMBER.finditer(text) if n.start() < end < n.end()), None)
    return text[: end if inside is None else inside.start()] + _CUT


def check_name(name: object) -> None:
    """Refuses what cannot be part of a folder's name.

    Raises:
        ValueError: if ``name`` is no such word.
    """
    if not _FOLDER_NAME.fullmatch(as_text("name", name, "name")):
        raise ValueError(
            f"name ({name}) must begin with a letter or digit and hold only letters, digits, "
            "spaces and _ . + = -"
        )
