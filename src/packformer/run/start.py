"""``init_from``: the settings and the tokenizer of the weights that training starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from packformer.run.added_settings import with_added_settings
from packformer.run.resume import ABSENT, flat, is_part, shown
from packformer.run.source import GROUPS, Source
from packformer.settings import as_text

_FREE = (
    *("attention.kernel", "model.activation_checkpointing", "model.fp32_residual"),
    *("model.init_std", "attention._partial_", "position._partial_"),
)
_TOLD = 4  # contradictions, at most


def with_settings_of_start(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration with the settings of ``init_from``, if that is given.

    Args:
        config: as it was composed.
        overrides: of the command line.

    Returns:
        A copy whose model, attention, position and layers are those of the weights. Data that would
        train a tokenizer get that of the weights.

    Raises:
        ValueError: if ``init_from`` cannot be read, or a setting that was chosen contradicts it.
    """
    if config.get("init_from") is None:
        return config
    from packformer.run.read_source import read_source  # imports torch

    source = read_source(Path(as_text("init_from", config.init_from, "path")).expanduser())
    composed = _plain(config)
    _refuse_contradictions(source, composed, overrides)
    taken = config.copy()
    with open_dict(taken):
        for group in GROUPS:
            taken[group] = _with_free(group, source.settings[group], composed.get(group))
        if "tokenizer" in taken.data and taken.data.tokenizer is None:
            if source.tokenizer is None:
                raise ValueError(
                    f"init_from ({source.path}) has no tokenizer to take along: give the one its "
                    "text was encoded with, data.tokenizer=TOKENIZER.json"
                )
            taken.data.tokenizer = str(source.tokenizer)
    return taken


def _refuse_contradictions(
    source: Source, composed: Mapping[str, Any], overrides: Sequence[str]
) -> None:
    """Refuses settings that were chosen and that the weights are not made for.

    A setting counts as chosen if the command line names it or its group, or if it is not the
    default: an experiment chooses too, and ``+debug`` does not.
    """
    theirs = with_added_settings(source.settings)
    wanted, found, default = (_flat_groups(of) for of in (theirs, composed, _defaults(overrides)))
    named = [override.lstrip("+~").partition("=")[0] for override in overrides]
    contradictions = [
        f"{key} is {shown(wanted.get(key, ABSENT))} there and {shown(found.get(key, ABSENT))} here"
        for key in sorted(wanted.keys() | found.keys())
        if key not in _FREE
        and (wanted.get(key) != found.get(key))
        and (found.get(key) != default.get(key) or any(is_part(key, (name,)) for name in named))
    ]
    if contradictions:
        more = len(contradictions) - _TOLD
        told = [*contradictions[:_TOLD], *([f"{more} more"] if more > 0 else [])]
        raise ValueError(
            f"init_from ({source.path}) brings its settings along, and others are chosen: "
            f"{'; '.join(told)}: leave them out"
        )


def _flat_groups(settings: Mapping[str, Any]) -> dict[str, Any]:
    return flat({group: settings.get(group) for group in GROUPS})


def _defaults(overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration without any choice but ``+debug``."""
    loader = GlobalHydra.instance().config_loader()
    debug = [override for override in overrides if override.startswith("+debug=")]
    return _plain(loader.load_configuration("config", debug, RunMode.RUN))


def _plain(config: DictConfig) -> dict[str, Any]:
    groups = OmegaConf.masked_copy(config, [key for key in GROUPS if key in config])
    groups.setdefault("layers", None)
    found: dict[str, Any] = OmegaConf.to_container(groups, resolve=True)  # type: ignore[assignment]
    return with_added_settings(found)


def _with_free(group: str, settings: Any, composed: Any) -> Any:
    """Settings of the weights; those that weights do not depend on stay as composed."""
    if not isinstance(settings, Mapping) or not isinstance(composed, Mapping):
        return settings
    names = [key.partition(".")[2] for key in _FREE if key.startswith(f"{group}.")]
    free = {name: composed[name] for name in names if name in composed and name in settings}
    return {**settings, **free}
