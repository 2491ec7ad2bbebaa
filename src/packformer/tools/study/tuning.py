"""``--tune``: the values to try for each variant, and the runs that try them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from packformer.command_line.composition import compose
from packformer.command_line.variants import variants_of
from packformer.run.secrets import refuse_secrets
from packformer.study.tuning import Tuned, Tuning
from packformer.tools.study.matching import SizedVariant, safe_name, settings_of_run

TUNING_SEED = 1000
"""Of runs that try values; never one of the study, however many seeds are added to that later."""

_OF_SIZE = ("experiment", "model", "attention", "layers")  # groups
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
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"--tune ({tune}) lists {value} twice: list each value once")
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
        raise ValueError(
            f"--tune {tuning.setting} could undo --match: tune another setting, or leave one out"
        )
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
