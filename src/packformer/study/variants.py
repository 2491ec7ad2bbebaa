"""Which runs are the same variant with other seeds, and what variants are called."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packformer.study.run_record import Run, flat, given_by

# Where a run is and what it shows say nothing about what it learns.
_OF_THE_PLACE = ("overrides", "choices", "resolved_from_data", "output_dir", "resume", "logger")
_ABSENT = "not set"


@dataclass(frozen=True)
class Variant:
    """Runs that differ in their seed alone.

    Attributes:
        label: what it is called: what it differs in from the others.
        size: value of the setting that makes the ladder; empty if there is none.
        runs: by seed.
        size_setting: its name; empty if there is none.
    """

    label: str
    size: str
    runs: tuple[Run, ...]
    size_setting: str = ""

    @property
    def name(self) -> str:
        """Label and size: ``gqa at width=96``."""
        return name_at(self.label, self.size_setting, self.size)

    @property
    def matched(self) -> str:
        """How it was made as large as the reference; empty if it was not."""
        return self.runs[0].matched

    @property
    def tuned(self) -> str:
        """Which value it was given, and which were tried; empty if none were."""
        return self.runs[0].tuned


def name_at(label: str, size_setting: str, size: str) -> str:
    """Of a variant at a size; the label where there is none."""
    return f"{label} at {shown_size(size_setting, size)}" if size else label


def shown_size(size_setting: str, size: str) -> str:
    """``width=96``, for ``model.width``."""
    return f"{size_setting.rpartition('.')[2]}={size}"


def variants_in(
    runs: Sequence[Run],
    size_setting: str | None = None,
    asked: Sequence[Sequence[str]] = (),
) -> list[Variant]:
    """Groups runs, in the order of the first of each.

    Args:
        runs: of a folder.
        size_setting: as the command line names it, ``model`` or ``model.width``; variants of other
            sizes have the same label.
        asked: overrides of all variants, so that those that have begun are called the same as
            once all have; empty if they are not known.

    Raises:
        ValueError: if no run has that setting.
    """
    groups: dict[str, list[Run]] = {}
    of_command: dict[str, str] = {}
    for run in runs:
        groups.setdefault(_identity(run), []).append(run)
        if run.config:
            of_command.setdefault(_command(run), _identity(run))
    for run in runs:  # what failed before it began belongs to its variant
        if not run.config and run.given and (its := of_command.get(_command(run))):
            groups[its] += groups.pop(_identity(run), [])
    kept = list(groups.values())
    told = [_told(group[0]) for group in kept]
    sizes = [""] * len(kept)
    if size_setting is not None:
        sizes = [
            _of_size(group[0], one, size_setting) for group, one in zip(kept, told, strict=True)
        ]
        for one in told:
            one.pop(size_setting, None)
    labels = _labels([*told, *(_without(one, size_setting) for one in asked)])[: len(told)]
    if len(set(zip(labels, sizes, strict=True))) < len(kept):
        labels = _by_settings([group[0] for group in kept], labels, size_setting)
    return [
        Variant(label, size, tuple(sorted(group, key=_seed)), size_setting or "")
        for label, size, group in zip(labels, sizes, kept, strict=True)
    ]


def labels_of(commands: Sequence[Sequence[str]], size_setting: str | None = None) -> list[str]:
    """What ``variants_in`` will call the variants that these overrides make, without sizes."""
    return _labels([_without(overrides, size_setting) for overrides in commands])


def names_of(commands: Sequence[Sequence[str]], size_setting: str | None) -> list[str]:
    """Names of the variants that these overrides make, with their sizes: ``gqa at width=96``."""
    setting = size_setting or ""
    labels = labels_of(commands, size_setting)
    sizes = [given_by(one).get(setting, "") for one in commands]
    return [name_at(label, setting, size) for label, size in zip(labels, sizes, strict=True)]


def of_asked_sizes(
    runs: Sequence[Run], asked: Sequence[Sequence[str]], size_setting: str | None
) -> list[Run]:
    """Without those of sizes that were taken out of the ladder.

    Args:
        runs: of a folder.
        asked: overrides of every variant at every size; empty if that is not known.
        size_setting: that makes the sizes; None without.
    """
    name = size_setting or ""
    sizes = {given_by(one)[name] for one in asked if name in given_by(one)}
    return [run for run in runs if not sizes or run.given.get(name, min(sizes)) in sizes]


def not_begun(
    asked: Sequence[Sequence[str]], runs: Sequence[Run], size_setting: str | None = None
) -> list[str]:
    """Names of those overrides that no run was given, apart from its seed."""
    begun = {_command(run) for run in runs}
    commands = [json.dumps(_telling(given_by(one)), sort_keys=True) for one in asked]
    names = names_of(asked, size_setting)
    return [one for one, own in zip(names, commands, strict=True) if own not in begun]


def _seed(run: Run) -> tuple[int, str]:
    return (-1 if run.seed is None else run.seed), str(run.folder)


def _identity(run: Run) -> str:
    """Of runs that differ in their seed alone it is the same."""
    if not run.config:  # it failed before it began
        return _command(run) if run.given else str(run.folder)
    return json.dumps(_told(run) | _settings(run), sort_keys=True, default=str)


def _command(run: Run) -> str:
    return json.dumps(_told(run), sort_keys=True)


def _settings(run: Run) -> dict[str, Any]:
    kept = {name: value for name, value in run.config.items() if name not in _OF_THE_PLACE}
    return {name: value for name, value in flat(kept).items() if not _is_seed(name)}


def _is_seed(name: str) -> bool:
    return name.rpartition(".")[2] == "seed"


def _told(run: Run) -> dict[str, str]:
    """What the command line gave that may tell variants apart, and the name."""
    given = _telling(run.given)
    if not given and "name" in run.config:
        given["name"] = str(run.config["name"])
    return given


def _telling(given: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in given.items()
        if not _is_seed(name) and name.partition(".")[0] not in (*_OF_THE_PLACE, "hydra")
    }


def _without(overrides: Sequence[str], size_setting: str | None) -> dict[str, str]:
    """What overrides give that may tell variants apart, other than the size."""
    told = _telling(given_by(overrides))
    return {name: value for name, value in told.items() if name != size_setting}


def _of_size(run: Run, told: Mapping[str, str], setting: str) -> str:
    found = told.get(setting, flat(run.config).get(setting))
    if found is None:
        raise ValueError(
            f"--sizes ({setting}) is no setting of the run in {run.folder}: name one that the "
            "command line gave, or one of its config.yaml"
        )
    return str(found)


def _labels(told: Sequence[Mapping[str, str]]) -> list[str]:
    """Of each the settings that are not the same in all: ``gqa``, ``gqa width=64``."""
    names = list(dict.fromkeys(name for one in told for name in one))
    differ = [name for name in names if len({one.get(name) for one in told}) > 1]
    labels = []
    for one in told:
        words = [_word(name, one[name]) for name in differ if name in one]
        labels.append(" ".join(words) or (one.get("experiment") or one.get("name") or "default"))
    return labels


def _word(name: str, value: str) -> str:
    return value if name in ("experiment", "name") else f"{name.rpartition('.')[2]}={value}"


def _by_settings(runs: Sequence[Run], labels: Sequence[str], size: str | None) -> list[str]:
    """Labels with what configurations differ in, where the command line does not tell."""
    settings = [_settings(run) for run in runs]
    names = list(dict.fromkeys(name for one in settings for name in one))
    shown = [[json.dumps(one.get(n, _ABSENT), default=str) for n in names] for one in settings]
    differ = [
        place
        for place, name in enumerate(names)
        if name not in (size, "name") and len({row[place] for row in shown}) > 1
    ][:3]
    return [
        " ".join([label, *(f"{names[p].rpartition('.')[2]}={row[p]}" for p in differ)])
        for label, row in zip(labels, shown, strict=True)
    ]
