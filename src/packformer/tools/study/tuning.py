"""``--tune``: the values to try for each variant, and the runs that try them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from packformer.command_line.composition import compose, compose_plain
from packformer.command_line.variants import variants_of
from packformer.run.secrets import refuse_secrets
from packformer.settings import shown
from packformer.study.run_record import flat
from packformer.study.tuning import Tuned, Tuning
from packformer.tools.study.matching import SizedVariant, safe_name, settings_of_run

TUNING_SEED = 1000
"""Of runs that try values; never one of the study, however many seeds are added to that later."""

_OF_SIZE = ("experiment", "model", "attention", "layers")  # groups
_OF_MODEL = ("model.", "attention.", "layers.")
_OF_LOSS = (
    *("bpe_vocab_size", "loader.validation_rows", "packing.row_length"),
    *("packing.max_document_length", "packing.long_documents", "packing.lookahead"),
)
"""Settings that change tokens or rows which the loss is measured on."""

_OF_THE_PLACE = ("name", "output_dir", "resume", "logger")  # what a run learns they do not change
_EXAMPLE = "write --tune optimizer.learning_rate=1e-3,2e-3,4e-3"


def tuning_of(tune: str) -> Tuning:
    """What is tuned.

    Args:
        tune: ``SETTING=A,B,...``.

    Raises:
        ValueError: if that does not list two values or more.
    """
    values = (
        [one.overrides[0].partition("=")[2] for one in variants_of([tune])] if "=" in tune else []
    )
    if len(values) < 2:
        raise ValueError(f"--tune ({tune}) must list two values or more: {_EXAMPLE}")
    refuse_twice("--tune", tune, values)
    return Tuning(_name(tune), tuple(values), TUNING_SEED)


def refuse_untunable(
    tune: str, overrides: Sequence[str], ladder: str | None, match: str | None, num_seeds: int
) -> None:
    """Refuses what cannot be tuned, before torch is imported.

    Args:
        tune: ``SETTING=A,B,...``.
        overrides: of the study, without the ladder.
        ladder: ``SETTING=A,B,...`` of the sizes; None without.
        match: quantity in which variants are made as large as the reference; None if in none.
        num_seeds: of each variant.

    Raises:
        ValueError: naming the setting.
    """
    tuning = tuning_of(tune)
    refuse_secrets({}, [tune])  # before study.json records it
    for given in overrides:
        if _name(given) == tuning.setting:
            raise ValueError(
                f"--tune gives {tuning.setting} its values, and so does {given}: leave one out"
            )
    if ladder is not None and _name(ladder) == tuning.setting:
        raise ValueError(f"--tune and --ladder both list {tuning.setting}: tune another setting")
    if tuning.setting.startswith(("hydra.", "hydra/")):
        raise ValueError(f"--tune: {tuning.setting} is not a setting of a run: tune another")
    group = tuning.setting.partition(".")[0]
    if match is not None and group in _OF_SIZE:
        raise ValueError(_undoes_match(tuning.setting))
    if num_seeds > tuning.seed:
        raise ValueError(
            f"--seeds ({num_seeds:,}) must be at most {tuning.seed:,} with --tune, whose runs have "
            f"seed {tuning.seed}"
        )
    first = variants_of([*overrides, *([ladder] if ladder else [])])[0].overrides
    for value in tuning.values:
        try:
            compose([*settings_of_run(first), _override(tune, value)])
        except ValueError as error:
            raise ValueError(f"--tune: {error}") from error


def refuse_unequal(
    tune: str,
    names: Sequence[str],
    commands: Sequence[Sequence[str]],
    found: Sequence[Mapping[str, Mapping[str, Any]]],
    match: str | None,
) -> None:
    """Refuses values whose losses cannot be compared, or that make variants the same.

    Args:
        tune: ``SETTING=A,B,...``.
        names: of the variants at each size.
        commands: overrides of each.
        found: configurations of each, by the override that is tried.
        match: quantity in which variants are made as large as the reference; None if in none.

    Raises:
        ValueError: naming the setting that changes what the loss means, or the variants.
    """
    for configurations in found:
        first, *others = (flat(one) for one in configurations.values())
        for other in others:
            changed = [key for key in {**first, **other} if first.get(key) != other.get(key)]
            if of_loss := [key for key in changed if _changes_loss(key, first, other)]:
                one, two = (shown(each.get(of_loss[0])) for each in (first, other))
                raise ValueError(
                    f"--tune {_name(tune)} changes what the loss means ({of_loss[0]} is {one} or "
                    f"{two}): tune another setting"
                )
            if match is not None and any(key.startswith(_OF_MODEL) for key in changed):
                raise ValueError(_undoes_match(_name(tune)))
    for value in found[0]:
        same: dict[str, int] = {}
        for place, configurations in enumerate(found):
            former = same.setdefault(_learned(configurations[value]), place)
            if former != place and _alone(commands[former]) != _alone(commands[place]):
                raise ValueError(
                    f"--tune {_name(tune)} sets what tells variants apart: with {value}, "
                    f"{names[former]} and {names[place]} are the same; tune another setting"
                )


def refuse_twice(option: str, given: str, values: Sequence[str]) -> None:
    """Refuses a list that has a value twice, however it is written: ``48`` and ``48.0``.

    Raises:
        ValueError: naming the option and the value.
    """
    for place, value in enumerate(values):
        if any(_number(value) == _number(one) for one in values[:place]):
            raise ValueError(f"{option} ({given}) lists {value} twice: list each value once")


def with_best(variant: SizedVariant, tune: str, tuned: Tuned) -> SizedVariant:
    """A variant with its best value, and a folder for the runs with it.

    Args:
        variant: that was tuned.
        tune: ``SETTING=A,B,...``.
        tuned: what its runs told.

    Raises:
        ValueError: if no value is known to be good; names what became of each.
    """
    if tuned.obstacle:
        raise ValueError(
            f"{tuned.name} cannot be tuned, as the runs with its values have {tuned.obstacle}: "
            "tune a setting that leaves data, tokenizer and validation rows alone; if they changed "
            "between the runs, give another --output"
        )
    if tuned.best is None:
        told = "; ".join(f"{one.value} {one.problem}" for one in tuned.trials)
        raise ValueError(
            f"no run that tunes {tuned.setting} of {tuned.name} finished ({told}): the same "
            "command repeats them"
        )
    value = tuned.best.value
    own = safe_name(f"{tuned.setting.rpartition('.')[2]}_{value}")
    return replace(
        variant,
        overrides=(*variant.overrides, _override(tune, value)),
        folder=f"{variant.folder}/{own}",
    )


def _override(tune: str, value: str) -> str:
    return f"{tune.partition('=')[0]}={value}"


def _name(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _undoes_match(setting: str) -> str:
    return f"--tune {setting} could undo --match: tune another setting, or leave one out"


def _changes_loss(key: str, first: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a setting with other values changes the data, the tokenizer or validation rows."""
    readers = {str(one.get("data._target_")) for one in (first, other)}
    is_own = len(readers) == 1 and not readers.pop().startswith("packformer.")
    return key in _OF_LOSS or (key.startswith("data.") and not is_own)


def _learned(settings: Mapping[str, Any]) -> str:
    kept = {key: value for key, value in settings.items() if key not in _OF_THE_PLACE}
    return json.dumps(kept, sort_keys=True, default=str)


def _alone(overrides: Sequence[str]) -> str:
    """What a variant learns without a value that is tuned."""
    return _learned(compose_plain(settings_of_run(overrides)))


def _number(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value
