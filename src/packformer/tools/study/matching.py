"""The variants of a study with folders of their own, each as large as the reference if asked."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packformer.command_line.variants import Variant, variants_of
from packformer.run.secrets import refuse_secrets
from packformer.study.match import Match
from packformer.study.placed import Placed, first_folder
from packformer.study.question import Question, read_question
from packformer.study.run_record import read_runs
from packformer.study.variants import labels_of, name_at


@dataclass(frozen=True)
class SizedVariant:
    """What to train of a variant, at one size.

    Attributes:
        placed: what the report is told.
        overrides: of the variant, and those that match or tune it.
        folder: of the sweep that trains it, below that of the study.
    """

    placed: Placed
    overrides: tuple[str, ...]
    folder: str


def sized_variants(
    overrides: Sequence[str], ladder: str | None, reference: str | None, quantity: str | None
) -> list[SizedVariant]:
    """Every variant at each size, matched to the reference of that size if it is to be.

    Args:
        overrides: as of ``packformer train -m``.
        ladder: ``SETTING=A,B,...`` of the sizes; None without.
        reference: label of a variant; None for the first.
        quantity: that is made equal, of ``packformer.study.match.QUANTITIES``; None if none is.

    Returns:
        In the order of a sweep: the sizes of the first variant, then those of the next.

    Raises:
        ValueError: if a variant cannot be matched, there is nothing to match, or a setting holds a
            secret.
    """
    refuse_secrets({}, filter(None, [*overrides, ladder]))  # before study.json records them
    asked = [variant.overrides for variant in variants_of(overrides)]
    labels = labels_of(asked)
    _check_labels(labels, reference, quantity)
    steps = [one.overrides for one in variants_of([ladder])] if ladder else [()]
    sizes = [(own[0].partition("=")[2] if own else "", own) for own in steps]
    setting = ladder.partition("=")[0].lstrip("+") if ladder else ""
    found: dict[tuple[str, str], SizedVariant] = {}
    for size, own in sizes:
        whole = [(*each, *own) for each in asked]
        names = [name_at(label, setting, size) for label in labels]
        matches: Sequence[Match | None] = [None] * len(labels)
        if quantity is not None:
            chosen = name_at(reference or labels[0], setting, size)
            matches = _matches(names, whole, chosen, quantity)
        for label, each, match in zip(labels, whole, matches, strict=True):
            folder = safe_name(f"{label}, {size}" if size else label)
            placed = Placed(folder, each, "" if match is None else str(match))
            full = each if match is None else match.added_to(each)
            found[label, size] = SizedVariant(placed, full, folder)
    return [found[label, size] for label in labels for size, _ in sizes]


def settings_of_run(overrides: Sequence[str]) -> tuple[str, ...]:
    """Without those of Hydra that say how jobs are run."""
    return tuple(one for one in overrides if not re.match(r"[+~]*hydra(/|\.(?!searchpath))", one))


def safe_name(name: str) -> str:
    """As much of a name as a folder may have, and a hash that keeps others apart."""
    safe = re.sub(r"[^\w.]+", "-", name).strip("-.")[:48]
    return safe if safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def refuse_other_runs(folder: Path, question: Question) -> None:
    """Refuses a folder with runs that were matched or tuned otherwise, or not at all.

    Args:
        folder: of the study.
        question: what it is asked now.

    Raises:
        ValueError: naming one of those runs.
    """
    before = read_question(folder)
    former = {one.folder: one.told for one in before.placed}
    now = {one.folder: one.told for one in question.placed}
    if not former and not now:
        return
    try:
        runs = read_runs(folder)
    except ValueError:  # none yet
        return
    for run in runs:
        place = first_folder(run.folder, folder)
        told = ""
        if _tuned(before) != _tuned(question):
            told = _tuned(before)
        elif place not in now or _how(former.get(place, now[place])) != _how(now[place]):
            is_left = place in former and place not in now
            told = former.get(place) or ("another variant" if is_left else "not matched")
        if told:
            raise ValueError(
                f"--output ({folder}) holds {run.folder.relative_to(folder)} of another study "
                f"({told}): give another folder"
            )


def _how(told: str) -> str:
    """Without the name of the variant: earlier versions called a size ``gqa, 96``."""
    return told.rpartition(": ")[2]


def _tuned(question: Question) -> str:
    return "not tuned" if question.tuning is None else f"tuned in {question.tuning.setting}"


def _check_labels(labels: Sequence[str], reference: str | None, quantity: str | None) -> None:
    if quantity is not None and len(labels) < 2:
        raise ValueError("--match needs variants: list values, such as +experiment=mha,gqa")
    option = "--tune" if quantity is None else "--match"
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"{option}: two variants are called {label}: list each value once")
    if reference is not None and reference not in labels:
        raise ValueError(
            f"--reference ({reference}) is none of the variants: name one of {', '.join(labels)}"
        )


def _matches(
    names: Sequence[str], overrides: Sequence[Sequence[str]], reference: str, quantity: str
) -> list[Match]:
    from packformer.tools.match.match import match_variants  # imports torch

    variants = [
        Variant(name, settings_of_run(each)) for name, each in zip(names, overrides, strict=True)
    ]
    return match_variants(variants, reference, quantity)
