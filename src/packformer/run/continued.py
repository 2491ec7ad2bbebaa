"""``resume=RUN``: the run's own configuration, and what is chosen beside it as a change."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from packformer.run.added_settings import with_added_settings
from packformer.run.chosen import choices_of, chosen_settings, named
from packformer.run.own_paths import refuse_lost_data, with_own_paths
from packformer.run.recorded import choices_in, overrides_in
from packformer.run.recorded import chosen as given
from packformer.run.resume import (
    CONFIG_FILE,
    TOKENIZER_FILE,
    find_checkpoint,
    flat,
    read_configuration,
    run_folder,
)
from packformer.run.trusted import refuse_foreign_names, refuse_foreign_places

_OF_COMMAND = ("resume", "output_dir")  # never the run's
_MISSING = "???"
_SIZES = ("data.vocab_size", "bpe_vocab_size")  # of a tokenizer that is trained
_NOTHING = object()
"""Instead of the value of a setting that is not there."""


def resumed_folder(config: DictConfig) -> Path | None:
    """The run folder that ``resume`` names; None if it names none."""
    resume = config.get("resume")
    if resume in (None, "", "never", "auto"):
        return None
    checkpoint = find_checkpoint(str(resume), Path(), {})
    return None if checkpoint is None else run_folder(checkpoint)


def with_settings_of_run(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration with the settings of the run that ``resume`` names, if it names one.

    What the command line chooses stays: a setting that it names, a group, the settings of an
    experiment. A group or an experiment that the run has anyway chooses nothing.

    Args:
        config: as it was composed.
        overrides: of the command line.

    Returns:
        A copy with the run's settings; ``config`` itself for a new run, ``resume=auto``, or a
        checkpoint that lies in no run folder.

    Raises:
        ValueError: if there is no such run, its configuration is damaged, or its data are gone.
    """
    folder = resumed_folder(config)
    if folder is None:
        return config
    file = folder / CONFIG_FILE
    found = read_configuration(file, with_sizes=True)
    if not found:
        raise ValueError(
            f"resume={config.resume}: {file} is damaged, so the run's settings are not known: copy "
            "that of the run there"
        )
    refuse_foreign_names(_literal(found), file)
    refuse_foreign_places(found, file)
    former = with_own_paths(given(found), folder)
    chosen = chosen_settings(overrides, choices_in(found))
    taken = OmegaConf.create(_merged(config, former, chosen))
    _keep_tokenizer(taken, former, folder, chosen)
    refuse_lost_data(OmegaConf.to_container(taken, resolve=False), folder, chosen)  # type: ignore[arg-type]
    OmegaConf.set_struct(taken, True)
    return taken


def choices_of_run(folder: Path, overrides: Sequence[str]) -> dict[str, str]:
    """What was chosen of each group when the run began, and by ``overrides`` since."""
    return choices_in(_recorded_in(folder)) | choices_of(overrides)


def overrides_of_run(folder: Path, overrides: Sequence[str]) -> list[str]:
    """Those that the run began with, and ``overrides``; the last of each setting."""
    every = [*overrides_in(_recorded_in(folder)), *overrides]
    return list(dict(zip(named(every), every, strict=True)).values())


def _recorded_in(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG_FILE
    return read_configuration(file, with_sizes=True) if file.is_file() else {}


def _merged(config: DictConfig, former: Mapping[str, Any], chosen: set[str]) -> dict[str, Any]:
    composed: Any = OmegaConf.to_container(config, resolve=False)
    base = {k: v for k, v in _literal(_of_today(former)).items() if k not in _OF_COMMAND}
    merged = {**composed, **deepcopy(base)}
    for key, reference in _references(config, composed).items():
        if _follows(reference, key, base):
            _put(merged, key, reference)
    for key in sorted(chosen):
        _put(merged, key, _known(_at(composed, key), _at(base, key)))
    return merged


def _of_today(former: Mapping[str, Any]) -> dict[str, Any]:
    """With settings that were added since; what the run states stays as it is."""
    today = with_added_settings(former)
    model, stated = today.get("model"), former.get("model")
    if isinstance(model, dict) and isinstance(stated, Mapping):
        today["model"] = {**model, **stated}
    return today


def _literal(value: Any) -> Any:
    """A resolved value, so that OmegaConf reads back the very text and follows no reference."""
    if isinstance(value, Mapping):
        return {key: _literal(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_literal(child) for child in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def _references(config: DictConfig, composed: Mapping[str, Any]) -> dict[str, str]:
    """Settings that follow others: ``{"scheduler.num_steps": "${trainer.max_steps}"}``."""
    found = {}
    for key, value in flat(composed).items():
        group, _, name = key.rpartition(".")
        node = OmegaConf.select(config, group) if group else config
        if isinstance(node, DictConfig) and OmegaConf.is_interpolation(node, name):
            found[key] = value
    return found


def _follows(reference: str, key: str, base: Mapping[str, Any]) -> bool:
    """Whether a setting of a run had the value of what it refers to."""
    value = _at(base, key)
    if value is _NOTHING:
        return False
    tried = OmegaConf.create(deepcopy(dict(base)))
    OmegaConf.update(tried, key, reference)
    return OmegaConf.select(tried, key, throw_on_resolution_failure=False) == value


def _at(settings: Any, key: str) -> Any:
    for name in key.split("."):
        if not isinstance(settings, Mapping) or name not in settings:
            return _NOTHING
        settings = settings[name]
    return settings


def _put(settings: dict[str, Any], key: str, value: Any) -> None:
    """Sets or, if there is no value, removes a setting."""
    *groups, name = key.split(".")
    for group in groups:
        inner = settings.get(group)
        settings[group] = settings = inner if isinstance(inner, dict) else {}
    if value is _NOTHING:
        settings.pop(name, None)
    else:
        settings[name] = value


def _known(chosen: Any, former: Any) -> Any:
    """What is chosen; what it leaves open is the run's, if that is of the same class."""
    if not isinstance(chosen, Mapping) or not isinstance(former, Mapping):
        return former if chosen == _MISSING and former is not _NOTHING else chosen
    if chosen.get("_target_") != former.get("_target_"):
        return chosen
    return {name: _known(value, former.get(name, _NOTHING)) for name, value in chosen.items()}


def _keep_tokenizer(
    taken: DictConfig, former: Mapping[str, Any], folder: Path, chosen: set[str]
) -> None:
    """Other data are read with the run's tokenizer, as are data whose tokenizer is gone."""
    data, before, kept = taken.data, former.get("data"), folder / TOKENIZER_FILE
    if "tokenizer" not in data or not isinstance(before, Mapping) or not kept.is_file():
        return
    if data.tokenizer is not None:
        is_same = data.tokenizer == before.get("tokenizer")
        if is_same and not Path(str(data.tokenizer)).expanduser().is_file():
            data.tokenizer = str(kept)
        return
    if "vocab_size" in data and "vocab_size" in before:
        if chosen.isdisjoint(_SIZES):
            data.vocab_size = before["vocab_size"]
        elif data.vocab_size != before["vocab_size"]:
            return  # refused with the other settings of the weights
    if OmegaConf.to_container(data, resolve=True) != before:
        data.tokenizer = str(kept)
