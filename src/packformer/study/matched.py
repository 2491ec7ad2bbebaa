"""Variants of a study that were made as large as its reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from packformer.study.run_record import Run


@dataclass(frozen=True)
class Matched:
    """A variant, at one size of a ladder if there is one.

    Attributes:
        folder: of its runs, below that of the study.
        overrides: that make the variant, without those that match it.
        told: how it was matched, in words.
    """

    folder: str
    overrides: tuple[str, ...]
    told: str


def as_asked(runs: Sequence[Run], folder: Path, matched: Sequence[Matched]) -> list[Run]:
    """The runs as those of the variants that were asked for, in the order of the variants.

    What was changed to match a variant does not become part of its label then.

    Args:
        runs: below ``folder``.
        folder: of the study.
        matched: its variants; empty if none was matched.
    """
    places = {one.folder: place for place, one in enumerate(matched)}
    found = []
    for run in runs:
        place = places.get(first_folder(run.folder, folder), len(matched))
        if place < len(matched):
            one = matched[place]
            seeds = [each for each in run.overrides if each.startswith("seed=")]
            run = replace(run, overrides=(*one.overrides, *seeds), matched=one.told)
        found.append((place, run))
    return [run for _, run in sorted(found, key=lambda pair: pair[0])]


def first_folder(place: Path, study: Path) -> str:
    """Name of the folder below ``study`` that a run lies in; empty if it is that of the study."""
    return (place.relative_to(study).parts or ("",))[0]
