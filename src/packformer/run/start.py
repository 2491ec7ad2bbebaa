"""``init_from``: the settings and the tokenizer of the weights that training starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from packformer.layer_pattern import letters_of_layers
from packformer.run.added_settings import with_added_settings
from packformer.run.continued import resumed_folder
from packformer.run.model_path import check_model
from packformer.run.resume import (
    ABSENT,
    CONFIG_FILE,
    TOKENIZER_FILE,
    flat,
    is_part,
    read_configuration,
    same_run,
    shown,
    unfinished_runs,
)
from packformer.run.same_settings import in_words_of
from packformer.run.source import GROUPS, Source
from packformer.run.trusted import refuse_foreign_names
from packformer.settings import as_text

_FREE = (
    *("attention.kernel", "model.activation_checkpointing", "model.checkpointed_layers"),
    *("model.fp32_residual", "model.init_std", "model.embedding_std"),
    *("attention._partial_", "position._partial_"),
)
_PATTERN = "layers.pattern"
_SIZES = ("num_layers", "width", "num_heads")  # of the model
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
    path = Path(as_text("init_from", config.init_from, "path")).expanduser()
    if (taken := _of_resumed_run(config, path, overrides)) is not None:
        return taken
    check_model(str(path), f"init_from ({path})")
    from packformer.run.read_source import read_source  # imports torch

    _refuse_vocabulary(config, overrides)
    return _with_source(config, read_source(path), overrides)


def _refuse_vocabulary(config: DictConfig, overrides: Sequence[str]) -> None:
    """Refuses the size of a tokenizer that is not trained."""
    if "tokenizer" not in config.data:
        return
    for override in overrides:
        name, _, value = override.lstrip("+").partition("=")
        if name in ("data.vocab_size", "bpe_vocab_size"):
            raise ValueError(
                f"{name} ({value}) changes nothing, as init_from ({config.init_from}) brings its "
                "tokenizer along: leave it out"
            )


def _of_resumed_run(config: DictConfig, path: Path, overrides: Sequence[str]) -> DictConfig | None:
    """The configuration with the settings of the resumed run, whatever became of its source.

    Args:
        config: as it was composed.
        path: of ``init_from``.
        overrides: of the command line.

    Returns:
        A copy; None for a new run.

    Raises:
        ValueError: if the run started from something else, or a chosen setting contradicts it.
    """
    resume = str(config.get("resume"))
    if resume in ("never", "None", ""):
        return None
    if resume != "auto":
        folder = resumed_folder(config)
        if folder is None:
            return None
        former = read_configuration(folder / CONFIG_FILE)
        _refuse_other_start(resume, former.get("init_from"), str(config.init_from))
        return config
    for folder, former in unfinished_runs(Path(str(config.output_dir))).items():
        if former.get("init_from") != config.init_from:
            continue
        try:
            taken = _with_source(config, _source_of_run(folder, former, path), overrides)
        except ValueError:  # other settings are chosen
            continue
        if same_run(former, OmegaConf.to_container(taken, resolve=True)):  # type: ignore[arg-type]
            return taken
    return None


def _refuse_other_start(resume: str, former: object, now: str) -> None:
    if former != now:
        begun, advice = "without init_from", "leave it out"
        if former is not None:
            begun, advice = f"with init_from={former}", "repeat that"
        raise ValueError(
            f"resume={resume}: the run began {begun}, and init_from={now} is given: {advice}"
        )


def _source_of_run(folder: Path, former: dict[str, Any], path: Path) -> Source:
    """What a run that was started from ``path`` took of it."""
    data = former.get("data")
    file = data.get("tokenizer") if isinstance(data, dict) else None
    known = [Path(str(file))] if file is not None else []
    tokenizer = next((f for f in (*known, folder / TOKENIZER_FILE) if f.is_file()), None)
    settings = {"layers": {"pattern": None}} | {g: former[g] for g in GROUPS if former.get(g)}
    if missing := [group for group in GROUPS if group not in settings]:
        raise ValueError(f"{folder / CONFIG_FILE} is damaged: it lacks {missing[0]}")
    refuse_foreign_names(settings, folder / CONFIG_FILE)
    return Source(path, settings, tokenizer)


def _with_source(config: DictConfig, source: Source, overrides: Sequence[str]) -> DictConfig:
    composed = _plain(_with_letters_of(source, config))
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
    worded = in_words_of(_with_sizes_of(theirs, composed), theirs)
    wanted, found, default = (_flat_groups(of) for of in (worded, composed, _defaults(overrides)))
    if _same_letters(wanted, found):
        wanted[_PATTERN] = found[_PATTERN]
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


def _with_letters_of(source: Source, config: DictConfig) -> DictConfig:
    """A copy in which letters without settings have those that come along: a pattern may be all
    that is chosen."""
    known, composed = source.settings.get("layers"), config.get("layers")
    if not isinstance(known, Mapping) or not isinstance(composed, DictConfig):
        return config
    lent = config.copy()
    with open_dict(lent):
        lent.layers = {**composed, **{k: v for k, v in known.items() if k not in composed}}
    return lent


def _with_sizes_of(theirs: Mapping[str, Any], composed: Mapping[str, Any]) -> Mapping[str, Any]:
    """``composed`` for as many layers, and as wide ones, as come along: others are refused."""
    there, here = theirs.get("model"), composed.get("model")
    if not isinstance(there, Mapping) or not isinstance(here, Mapping):
        return composed
    sizes = {name: there[name] for name in _SIZES if name in there}
    return {**composed, "model": {**here, **sizes}}


def _same_letters(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether two patterns give every layer that comes along the same letter."""
    num_layers = wanted.get("model.num_layers")
    patterns = wanted.get(_PATTERN), found.get(_PATTERN)
    if type(num_layers) is not int or not all(isinstance(p, str) and p.isalpha() for p in patterns):
        return False
    one, other = (letters_of_layers(str(pattern), num_layers) for pattern in patterns)
    return one == other


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
