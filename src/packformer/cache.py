"""The user's cache folder: results that are expensive to make and cheap to keep."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """``$PACKFORMER_CACHE``, or the platform's folder for caches."""
    chosen = os.environ.get("PACKFORMER_CACHE")
    return Path(chosen) if chosen else platformdirs.user_cache_path("packformer")


def fingerprint(parts: Iterable[str | bytes]) -> str:
    """A name for a result that depends on ``parts``."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:24]


def cached_folder(name: str, make: Callable[[Path], None]) -> Path:
    """The cached folder ``name``, made by ``make`` if it is not there yet.

    It appears complete or not at all: it is made beside its place and moved there at the end, so
    that neither a crash nor a second process making the same leaves half of one.
    """
    folder = cache_folder() / name
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise OSError(
            f"the cache {folder.parent} cannot be written ({error.strerror}): set PACKFORMER_CACHE "
            "to another folder"
        ) from error
    try:
        make(unfinished)
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process was faster
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder
