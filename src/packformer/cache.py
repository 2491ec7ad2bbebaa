"""The user's cache folder: results that are expensive to make and cheap to keep."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """``$PACKFORMER_CACHE``, or the platform's folder for caches.

    Users without a home, as in containers, have a folder of their own among temporary files.

    Raises:
        ValueError: if that belongs to another user.
    """
    chosen = os.environ.get("PACKFORMER_CACHE")
    if chosen:
        return Path(chosen)
    try:
        return platformdirs.user_cache_path("packformer")
    except RuntimeError:
        own = Path(tempfile.gettempdir()) / f"packformer-{os.getuid()}"
        own.mkdir(mode=0o700, exist_ok=True)
        if own.stat().st_uid != os.getuid():
            raise ValueError(
                f"there is no home folder and {own} belongs to another user: set PACKFORMER_CACHE"
            ) from None
        return own


def is_cache_writable() -> bool:
    """Whether results can be kept in the cache; its folder is made if it is not there."""
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError):  # what needs the cache tells of it
        return False
    return os.access(folder, os.W_OK)


def keep_compiled() -> None:
    """Has torch keep what it compiles in the user's cache. Call it before anything is compiled.

    By default it lies among temporary files, which containers and clusters lose.
    ``TORCHINDUCTOR_CACHE_DIR`` overrules it.

    Graphs with autograd functions of their own are kept, too, or a warm start would derive the
    backward pass of the model anew. torch leaves them out by default, though the forward and the
    backward of such a function are part of the graph that names what is kept.
    ``TORCHINDUCTOR_AUTOGRAD_CACHE_ALLOW_CUSTOM_AUTOGRAD=0`` overrules that.
    """
    os.environ.setdefault("TORCHINDUCTOR_AUTOGRAD_CACHE_ALLOW_CUSTOM_AUTOGRAD", "1")
    try:
        folder = cache_folder() / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError):
        return  # what needs the cache tells of it
    if os.access(folder, os.W_OK):
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder.absolute()))


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

    It appears complete or not at all: it is made next to its place and moved there at the end. One
    process makes it; others that want it wait. If it is interrupted, the next process gets what
    it left there, and continues or starts over.

    Args:
        name: of the folder, by ``fingerprint`` of all that its content depends on.
        make: fills the folder it is given.

    Raises:
        OSError: if the cache cannot be written.
    """
    folder = cache_folder() / name
    if folder.is_dir():
        return folder
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f".{folder.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("another process is making %s: waiting for it", folder)
            lock.acquire()
    except OSError as error:
        raise OSError(
            f"the cache {folder.parent} cannot be written ({error.strerror}): set PACKFORMER_CACHE "
            "to another folder"
        ) from error
    try:
        if not folder.is_dir():
            unfinished.mkdir(exist_ok=True)
            make(unfinished)
            unfinished.rename(folder)
    finally:
        lock.release()
    return folder
