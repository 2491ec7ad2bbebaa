"""What a configuration names to be made: classes and functions, also of the user's."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from hydra.errors import InstantiationException

from packformer.layer_pattern import kinds_of_layers
from packformer.run.given import given_to
from packformer.run.nearest import nearest

_OWN = "packformer"
_HYDRAS = ("_target_", "_partial_", "_args_", "_convert_", "_recursive_")
_FAILED_CALL = re.compile(r"Error in call to target '([^']+)'.*?(?:\nfull_key: (\S+))?", re.DOTALL)
_OF_VALUES = ("MisconfigurationException",)  # Lightning's; by name, because it is slow to import


def targets_of(settings: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every group of settings that Hydra makes an object of, and its place.

    Args:
        settings: resolved, as plain types.
    """
    yield from _below(settings, "")
    for letter, kind in kinds_of_layers(settings).items():
        for group, node in kind.items():
            yield f"layers.{letter}.{group}", node


def _below(node: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(node, dict):
        return
    if "_target_" in node:
        yield place, node
    for name, child in node.items():
        yield from _below(child, f"{place}.{name}" if place else str(name))


def imported(place: str, target: str) -> Any:
    """The class or function called ``target``, which the group at ``place`` names.

    Raises:
        ValueError: if there is none.
    """
    try:
        return resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        package = target.partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            raise _without_package(place, target) from error
        raise ValueError(f"{place}._target_ ({target}) cannot be imported: {error}") from error


@contextmanager
def naming(place: str, node: Mapping[Any, Any]) -> Iterator[None]:
    """Names a class or function of others while it is called, where its error names no setting.

    Errors that packformer raises, for example in the base class of a user's, stay as they are.

    Args:
        place: of the group in the configuration.
        node: its settings.

    Raises:
        ValueError: for a ValueError or OSError of others.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        if _is_own(node["_target_"]) or _is_raised_by_own(error):
            raise
        if any(re.search(rf"\b{re.escape(str(name))} \(", str(error)) for name in node):
            raise
        raise ValueError(_named(place, node["_target_"], error)) from error


def failed_call(error: InstantiationException) -> str | None:
    """What ``naming`` would tell of a call that Hydra made; None if packformer tells it itself."""
    cause, found = error.__cause__, _FAILED_CALL.fullmatch(str(error))
    if cause is None or found is None or _is_own(found[1]) or _is_raised_by_own(cause):
        return None
    return _named(found[2] or "_target_", found[1], cause)


def _named(place: str, target: str, error: BaseException) -> str:
    is_told = isinstance(error, ValueError | OSError) or type(error).__name__ in _OF_VALUES
    kind = type(error).__name__
    told = str(error) or kind if is_told else f"{kind}: {error}"
    return f"{place} ({target.rpartition('.')[2]}): {told}"


def _is_own(target: str) -> bool:
    return target.partition(".")[0] == _OWN


def _is_raised_by_own(error: BaseException) -> bool:
    raised = error.__traceback__
    while raised is not None and raised.tb_next is not None:
        raised = raised.tb_next
    return raised is not None and _is_own(raised.tb_frame.f_globals.get("__name__", ""))


def refuse_absent(place: str, target: str, known: Iterable[str]) -> None:
    """Refuses what can be told not to exist while nothing of it is imported.

    That is what lies in a package that is not there, and a name that a module of packformer's does
    not even mention.

    Args:
        place: of the group in the configuration.
        target: its ``_target_``.
        known: classes and functions that may have been meant.

    Raises:
        ValueError: naming it.
    """
    package, *names = target.split(".")
    if not package.isidentifier():
        return  # told by ``imported``
    if package not in sys.modules and find_spec(package) is None:
        raise _without_package(place, target)
    if package != _OWN:
        return
    module = Path(__file__).parents[1]
    while names and (module / names[0]).is_dir():
        module /= names.pop(0)
    if names and (file := module / f"{names[0]}.py").is_file():
        module = file
        names.pop(0)
    source = (module / "__init__.py" if module.is_dir() else module).read_text(encoding="utf-8")
    code = re.sub('""".*?"""', "", source, flags=re.DOTALL)
    if names and not re.search(rf"\b{re.escape(names[0])}\b", code):
        near = nearest(target, list(known))
        meant = f": did you mean {near}?" if near else ""
        raise ValueError(f"{place}._target_ ({target}) does not exist{meant}")


def _without_package(place: str, target: str) -> ValueError:
    package = target.partition(".")[0]
    return ValueError(
        f"{place}._target_ ({target}) cannot be imported: No module named '{package}'; set "
        f"PYTHONPATH to the folder that {package} lies in"
    )


def refuse_unknown(place: str, node: Mapping[str, Any], parameters: Iterable[str]) -> None:
    """Refuses settings that a class or function does not have.

    Args:
        place: of the group in the configuration.
        node: its settings.
        parameters: of the class or function.

    Raises:
        ValueError: naming the first, and what may have been meant.
    """
    known = [name for name in parameters if name not in given_to(place)]
    for name in node:
        if name in known or name in _HYDRAS:
            continue
        near = nearest(f"{place}.{name}", [f"{place}.{setting}" for setting in known])
        takes = f"{place} takes {', '.join(known) or 'none'}"
        meant = f"did you mean {near}?" if near else takes
        raise ValueError(f"there is no setting {place}.{name}: {meant}")
