"""Short names of corpora, for their metrics."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from packformer.data.fetch import is_url


def corpus_names(paths: Sequence[str]) -> list[str]:
    """The shortest ending of each path that is unique; equal paths are numbered.

    Args:
        paths: folders or URLs.
    """
    parts = [_parts(path) for path in paths]
    names: list[str] = []
    for own in parts:
        others = [other for other in parts if other != own]
        endings = (own[-count:] for count in range(1, len(own) + 1))
        unique = (end for end in endings if all(other[-len(end) :] != end for other in others))
        name = "/".join(next(unique, own))
        number = 1
        while (numbered := name if number == 1 else f"{name} ({number})") in names:
            number += 1
        names.append(numbered)
    return names


def _parts(path: str) -> tuple[str, ...]:
    if is_url(path):
        return tuple(part for part in path.split("/") if part)
    return Path(os.path.abspath(Path(path).expanduser())).parts
