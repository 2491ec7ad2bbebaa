"""The variants that lists of values on a command line stand for."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from packformer.command_line.groups import refuse_two_experiments
from packformer.command_line.overrides import refuse_lost_lists


@dataclass(frozen=True)
class Variant:
    """One combination of the values.

    Attributes:
        name: the values that others have otherwise: ``gqa``, or ``gqa attention.window=64``.
        overrides: of the command line, one value for each setting.
    """

    name: str
    overrides: tuple[str, ...]


def variants_of(overrides: Sequence[str]) -> list[Variant]:
    """Every combination of the listed values, in the order of a sweep, and written as it does.

    So ``2e-3`` becomes ``0.002``.

    Args:
        overrides: as of ``packformer train -m``.

    Raises:
        ValueError: if one cannot be read, or gives an interval instead of values, if there are two
            experiments, or if values would be lost or doubled.
    """
    refuse_two_experiments(overrides)
    refuse_lost_lists(overrides)
    lists: list[list[str]] = []
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException as error:
            raise ValueError(f"{text} cannot be read: {str(error).splitlines()[0]}") from error
        if override.is_delete():
            lists.append([text])
        elif not override.is_sweep_override():
            lists.append([f"{override.get_key_element()}={override.get_value_element_as_str()}"])
        elif override.is_discrete_sweep():
            key = override.get_key_element()
            lists.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            raise ValueError(f"{text} must list its values: write {override.key_or_group}=1,2")
    return [
        Variant(
            _name([one for one, many in zip(chosen, lists, strict=True) if len(many) > 1]), chosen
        )
        for chosen in itertools.product(*lists)
    ]


def _name(varied: Sequence[str]) -> str:
    named = [one.partition("=")[2] if _is_experiment(one) else one.lstrip("+") for one in varied]
    return " ".join(named) or "the only one"


def _is_experiment(override: str) -> bool:
    return override.lstrip("+").startswith("experiment=")
