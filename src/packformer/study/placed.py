"""Variants of a study that have folders of their own: they were matched, or tuned, or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from packformer.study.run_record import Run
from packformer.study.tuning import TUNING_FOLDER, Tuned, Tuning, tuned_by


@dataclass(frozen=True)
class Placed:
    """A variant, at one size of a ladder if there is one.

    Attributes:
        folder: of its runs, below that of the study.
        overrides: that make the variant, without those that match or tune it.
        told: how it was made as large as the reference, in words; empty if it was not.
    """

    folder: str
    overrides: tuple[str, ...]
    told: str = ""


def tuned_in(
    runs: Sequence[Run],
    folder: Path,
    placed: Sequence[Placed],
    tuning: Tuning,
    names: Sequence[str],
) -> list[Tuned]:
    """The value of each variant.

    Args:
        runs: below ``folder``.
        folder: of the study.
        placed: its variants.
        tuning: what is tuned.
        names: of the variants.
    """
    return [
        tuned_by(name, tuning, [run for run in runs if _tries(run, folder, one)])
        for one, name in zip(placed, names, strict=True)
    ]


def as_asked(
    runs: Sequence[Run], folder: Path, placed: Sequence[Placed], tuned: Sequence[Tuned] = ()
) -> list[Run]:
    """The runs as those of the variants that were asked for, in the order of the variants.

    What was changed to match or tune a variant does not become part of its label then. Runs that
    tried values are left out, and those of values that were chosen before.

    Args:
        runs: below ``folder``.
        folder: of the study.
        placed: its variants; empty if they have no folders of their own.
        tuned: the value of each; empty if they were not tuned.
    """
    places = {one.folder: place for place, one in enumerate(placed)}
    found = []
    for run in runs:
        place = places.get(first_folder(run.folder, folder), len(placed))
        if place < len(placed):
            one = placed[place]
            seeds = [each for each in run.overrides if each.startswith("seed=")]
            own = replace(run, overrides=(*one.overrides, *seeds), matched=one.told)
            if tuned:
                if _tries(run, folder, one) or not _has_best(run, tuned[place]):
                    continue
                own = replace(own, tuned=tuned[place].told)
            run = own
        found.append((place, run))
    return [run for _, run in sorted(found, key=lambda pair: pair[0])]


def first_folder(place: Path, study: Path) -> str:
    """Name of the folder below ``study`` that a run lies in; empty if it is that of the study."""
    return (place.relative_to(study).parts or ("",))[0]


def _tries(run: Run, study: Path, one: Placed) -> bool:
    return run.folder.is_relative_to(study / one.folder / TUNING_FOLDER)


def _has_best(run: Run, tuned: Tuned) -> bool:
    return tuned.best is not None and run.given.get(tuned.setting) == tuned.best.value
