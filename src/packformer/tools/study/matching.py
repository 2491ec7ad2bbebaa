"""The variants of a study, each with the setting that makes it as large as the reference."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packformer.command_line.variants import Variant, variants_of
from packformer.run.secrets import refuse_secrets
from packformer.study.match import Match
from packformer.study.matched import Matched, first_folder
from packformer.study.question import Question, read_question
from packformer.study.run_record import read_runs
from packformer.study.variants import labels_of, name_at


@dataclass(frozen=True)
class SizedVariant:
    """What to train of a variant, at one size.

    Attributes:
        matched: what the report is told.
        overrides: of the variant, and those that match it.
    """

    matched: Matched
    overrides: tuple[str, ...]


def sized_variants(
    overrides: Sequence[str], ladder: str | None, reference: str | None, quantity: str
) -> list[SizedVariant]:
    """Matches every variant to the reference, at each size.

    Args:
        overrides: as of ``packformer train -m``.
        ladder: ``SETTING=A,B,...`` of the sizes; None without.
        reference: label of a variant; None for the first.
        quantity: that is made equal, of ``packformer.study.match.QUANTITIES``.

    Returns:
        In the order of a sweep: the sizes of the first variant, then those of the next.

    Raises:
        ValueError: if a variant cannot be matched, there is nothing to match, or a setting holds a
            secret.
    """
    from packformer.tools.match.match import match_variants  # imports torch

    refuse_secrets({}, filter(None, [*overrides, ladder]))  # before study.json records them
    asked = [variant.overrides for variant in variants_of(overrides)]
    labels = labels_of(asked)
    _check_labels(labels, reference)
    steps = [one.overrides for one in variants_of([ladder])] if ladder else [()]
    sizes = [(own[0].partition("=")[2] if own else "", own) for own in steps]
    setting = ladder.partition("=")[0].lstrip("+") if ladder else ""
    found: dict[tuple[str, str], SizedVariant] = {}
    for size, own in sizes:
        whole = [(*each, *own) for each in asked]
        names = [name_at(label, setting, size) for label in labels]
        matches = match_variants(
            [
                Variant(name, tuple(one for one in each if not _is_of_hydra(one)))
                for name, each in zip(names, whole, strict=True)
            ],
            name_at(reference or labels[0], setting, size),
            quantity,
        )
        for label, each, match in zip(labels, whole, matches, strict=True):
            matched = Matched(_folder(label, size), each, str(match))
            found[label, size] = SizedVariant(matched, _with(match, each))
    return [found[label, size] for label in labels for size, _ in sizes]


def refuse_other_runs(folder: Path, question: Question) -> None:
    """Refuses a folder with runs that were matched otherwise, or not at all.

    Args:
        folder: of the study.
        question: what it is asked now.

    Raises:
        ValueError: naming one of those runs.
    """
    former = {one.folder: one.told for one in read_question(folder).matched}
    now = {one.folder: one.told for one in question.matched}
    if not former and not now:
        return
    try:
        runs = read_runs(folder)
    except ValueError:  # none yet
        return
    for run in runs:
        place = first_folder(run.folder, folder)
        if place not in now or _how(former.get(place, now[place])) != _how(now[place]):
            told = former.get(place, "not matched")
            raise ValueError(
                f"--output ({folder}) holds {run.folder.relative_to(folder)} of another study "
                f"({told}): give another folder"
            )


def _how(told: str) -> str:
    """Without the name of the variant: earlier versions called a size ``gqa, 96``."""
    return told.rpartition(": ")[2]


def _check_labels(labels: Sequence[str], reference: str | None) -> None:
    if len(labels) < 2:
        raise ValueError("--match needs variants: list values, such as +experiment=mha,gqa")
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"--match: two variants are called {label}: list each value once")
    if reference is not None and reference not in labels:
        raise ValueError(
            f"--reference ({reference}) is none of the variants: name one of {', '.join(labels)}"
        )


def _folder(label: str, size: str) -> str:
    """Both, or as much of them as a folder may have, and a hash that keeps others apart."""
    name = f"{label}, {size}" if size else label
    safe = re.sub(r"[^\w.]+", "-", name).strip("-.")[:48]
    return safe if safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def _is_of_hydra(override: str) -> bool:
    return re.match(r"[+~]*hydra[./]", override) is not None


def _with(match: Match, overrides: Sequence[str]) -> tuple[str, ...]:
    """The overrides, in which the match replaces what they say of its setting."""
    kept = [one for one in overrides if one.lstrip("+").partition("=")[0] != match.setting]
    return (*kept, *match.overrides)
