"""Refuses variants that cannot be trained, before any of them is."""

from __future__ import annotations

from collections.abc import Sequence

from packformer.command_line.composition import check_run
from packformer.study.sentences import listed
from packformer.study.variants import names_of
from packformer.tools.study.matching import settings_of_run


def refuse_impossible(
    commands: Sequence[Sequence[str]], sizes: str | None, tried: Sequence[str] = ()
) -> None:
    """Checks every variant at each size as its runs would, before torch is imported.

    Args:
        commands: overrides of each variant at each size.
        sizes: name of the setting that makes the ladder; None without.
        tried: overrides of which each variant will have the best; one of them must be possible.

    Raises:
        ValueError: naming the variants that cannot be trained, and why the first cannot.
    """
    problems = {}
    for name, overrides in zip(names_of(commands, sizes), commands, strict=True):
        if problem := _problem(settings_of_run(overrides), tried):
            problems[name] = problem
    if not problems:
        return
    (first, problem), *others = problems.items()
    if len(problems) == len(commands) and all(other == problem for _, other in others):
        raise ValueError(problem)  # of no variant alone
    also = f"; nor can {listed([name for name, _ in others])}" if others else ""
    raise ValueError(f"{first} cannot be trained: {problem}{also}")


def _problem(overrides: Sequence[str], tried: Sequence[str]) -> str:
    """Why no run of these overrides can begin; empty if one can."""
    found = []
    for more in [[one] for one in tried] or [[]]:
        try:
            check_run([*overrides, *more])
        except ValueError as error:
            found.append(str(error))
        else:
            return ""
    return "; ".join(dict.fromkeys(found))
