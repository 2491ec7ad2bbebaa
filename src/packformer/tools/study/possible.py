"""Refuses variants that cannot be trained, before any of them is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from packformer.command_line.composition import check_run
from packformer.study.sentences import listed
from packformer.study.variants import names_of
from packformer.tools.study.matching import settings_of_run


def refuse_impossible(
    commands: Sequence[Sequence[str]], sizes: str | None, tried: Sequence[str] = ()
) -> list[dict[str, dict[str, Any]]]:
    """Checks every variant at each size as its runs would, before torch is imported.

    Args:
        commands: overrides of each variant at each size.
        sizes: name of the setting that makes the ladder; None without.
        tried: overrides of which each variant will have the best; all of them are checked.

    Returns:
        Of each variant at each size its configurations, by the override that is tried.

    Raises:
        ValueError: naming the variants that cannot be trained, and why the first cannot.
    """
    found, problems = [], {}
    affected = 0
    for name, overrides in zip(names_of(commands, sizes), commands, strict=True):
        configurations, own = {}, {}
        for one in tried or [""]:
            try:
                configurations[one] = check_run([*settings_of_run(overrides), *filter(None, [one])])
            except ValueError as error:
                own[one] = str(error)
        if own and not configurations and len(set(own.values())) == 1:
            own = {"": next(iter(own.values()))}  # of no value alone
        for one, problem in own.items():
            problems[f"{name} with {one}" if one else name] = problem
        affected += bool(own)
        found.append(configurations)
    if not problems:
        return found
    (first, problem), *others = problems.items()
    if affected == len(commands) and all(other == problem for _, other in others):
        raise ValueError(problem)  # of no variant alone
    also = f"; nor can {listed([name for name, _ in others])}" if others else ""
    raise ValueError(f"{first} cannot be trained: {problem}{also}")
