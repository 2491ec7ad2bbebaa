"""Finds the known name nearest to a mistyped one."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

_SLIP, _SIBLING, _ANYWHERE = 0.88, 0.65, 0.7  # similarity that difflib must find


def nearest(name: str, known: Collection[str]) -> str | None:
    """The name among ``known`` that ``name`` is most likely a slip of; None if none is near.

    Names may have parts, joined by dots. In this order: almost the whole name, the same last part
    elsewhere (``max_steps``: ``trainer.max_steps``), a similar one in the same place, initials
    (``optimizer.lr``: ``optimizer.learning_rate``), a similar name anywhere.
    """
    if slip := difflib.get_close_matches(name, known, n=1, cutoff=_SLIP):
        return slip[0]
    place, _, last = name.rpartition(".")
    same = [key for key in known if _last(key) == last]
    if same:
        return max(same, key=lambda key: _similarity(name, key))
    siblings = [key for key in known if key.rpartition(".")[0] == place]
    return (
        _closest(last, siblings, _SIBLING)
        or _of_initials(last, siblings)
        or _closest(last, known, _ANYWHERE)
        or _of_initials(last, known)
    )


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _similarity(name: str, other: str) -> float:
    return difflib.SequenceMatcher(None, name, other).ratio()


def _closest(last: str, known: Iterable[str], cutoff: float) -> str | None:
    by_last = {_last(key).lower(): key for key in known}
    found = difflib.get_close_matches(last.lower(), by_last, n=1, cutoff=cutoff)
    return by_last[found[0]] if found else None


def _of_initials(last: str, known: Iterable[str]) -> str | None:
    """``learning_rate`` for ``lr``."""
    found = (k for k in known if "".join(word[:1] for word in _last(k).split("_")) == last)
    return next(found, None) if len(last) > 1 else None
