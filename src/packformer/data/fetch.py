"""Files behind URLs, fetched into a local cache of bounded size."""

from __future__ import annotations

import hashlib
import os
import queue
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from packformer.cache import cache_folder
from packformer.corpus.shards import hash_file
from packformer.whole_file import cannot_write

_BLOCK = 4 * 2**20
_ATTEMPTS = 3
_STALL_SECONDS = 60.0
_ABANDONED_SECONDS = 3600.0
_FINISHED, _UNFINISHED = ".tokens", ".unfinished"


def is_url(path: str) -> bool:
    """Whether fsspec has to read it."""
    return "://" in path


def read_url(url: str, most_bytes: int) -> bytes:
    """All of a small file.

    Raises:
        ValueError: if it is larger, cannot be read, or nothing comes for a minute, three times.
    """
    return b"".join(_bounded(url, most_bytes))


def _bounded(url: str, most_bytes: int) -> Iterator[bytes]:
    done = 0
    for block in _blocks(url):
        done += len(block)
        if done > most_bytes:
            raise ValueError(f"{url} is larger than the {most_bytes:,} bytes that it may be")
        yield block


class ShardCache:
    """Shards by their SHA-256, in the user's cache; the longest unused are removed first.

    Several processes may share it. What one has mapped into memory stays readable there even if
    another removes the file.

    Args:
        most_bytes: that all files may take.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._folder = cache_folder() / "shards"

    def get(self, url: str, sha256: str, size: int) -> Path:
        """The local file of a shard, fetched if it is not there.

        Raises:
            ValueError: if it cannot be fetched, or is not what its hash says.
            OSError: naming the file, if the cache cannot be written.
        """
        file = self._folder / f"{sha256}{_FINISHED}"
        self._folder.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock")):
            with suppress(FileNotFoundError):  # another process may make room at any time
                os.utime(file)
                if hash_file(file) == sha256:  # what lies long may decay
                    return file
            try:
                self._fetch(url, sha256, file, size)
            except OSError as error:
                raise cannot_write(file, error, size) from error
        return file

    def _fetch(self, url: str, sha256: str, file: Path, size: int) -> None:
        digest = hashlib.sha256()
        unfinished = self._reserve(size)
        try:
            with unfinished.open("r+b") as stream:
                for block in _bounded(url, size):
                    stream.write(block)
                    digest.update(block)
            if digest.hexdigest() != sha256:
                raise ValueError(
                    f"{url}: its SHA-256 is {digest.hexdigest()[:12]}..., its manifest says "
                    f"{sha256[:12]}...: it changed, or was damaged on its way"
                )
            os.replace(unfinished, file)
        finally:
            unfinished.unlink(missing_ok=True)

    def _reserve(self, size: int) -> Path:
        """Makes room for a file of this size, within the bound on all files."""
        with FileLock(self._folder / "room.lock"):
            found: list[tuple[float, int, Path]] = []
            for file in self._folder.iterdir():
                with suppress(FileNotFoundError):  # another process was faster
                    if file.suffix in (_FINISHED, _UNFINISHED):
                        stat = file.stat()
                        found.append((stat.st_mtime, stat.st_size, file))
            used = sum(entry[1] for entry in found)
            for used_last, freed, file in sorted(found):
                if used + size <= self._most_bytes:
                    break
                if file.suffix == _FINISHED or time.time() - used_last > _ABANDONED_SECONDS:
                    file.unlink(missing_ok=True)
                    used -= freed
            handle, name = tempfile.mkstemp(_UNFINISHED, dir=self._folder)
            os.truncate(handle, size)
            os.close(handle)
        return Path(name)


def _blocks(url: str) -> Iterator[bytes]:
    """The file's content; a broken download continues where it stopped."""
    done, failures = 0, 0
    while True:
        try:
            for block in _stream(url, done):
                done += len(block)
                failures = 0
                yield block
            return
        except Exception as error:  # each file system has exceptions of its own
            failures += 1
            if failures == _ATTEMPTS:
                cause = error.__cause__ or error  # fsspec puts the URL in place of what happened
                what = f"{type(cause).__name__}: {cause}"
                raise ValueError(f"{url} cannot be read, tried {failures} times: {what}") from error
            time.sleep(failures)


def _open_at(url: str, start: int) -> Any:
    """The file from byte ``start`` on."""
    import fsspec

    # From the beginning one request brings all of it, from servers that know no ranges too.
    on_the_web = {"block_size": 0} if url.startswith(("http://", "https://")) else {}
    if not start:
        return fsspec.open(url, "rb", **on_the_web).open()
    stream = fsspec.open(url, "rb").open()
    try:
        stream.seek(start)
        stream.read(1)
        stream.seek(start)
    except ValueError:  # nothing but the whole is to be had
        stream = fsspec.open(url, "rb", **on_the_web).open()
        while start and (block := stream.read(min(start, _BLOCK))):
            start -= len(block)
    return stream


def _stream(url: str, start: int) -> Iterator[bytes]:
    """Blocks from byte ``start`` on; gives up when none comes for a minute.

    A read that never returns cannot be ended: it stays behind in a thread of its own.
    """
    found: queue.Queue[bytes | Exception | None] = queue.Queue(maxsize=2)
    gone = threading.Event()

    def read() -> None:
        try:
            with _open_at(url, start) as stream:
                while not gone.is_set() and (block := stream.read(_BLOCK)):
                    found.put(block)
            found.put(None)
        except Exception as error:
            found.put(error)

    threading.Thread(target=read, daemon=True).start()
    try:
        while True:
            try:
                block = found.get(timeout=_STALL_SECONDS)
            except queue.Empty:
                raise TimeoutError(f"nothing came for {_STALL_SECONDS:g} seconds") from None
            if isinstance(block, Exception):
                raise block
            if block is None:
                return
            yield block
    finally:
        gone.set()
        with suppress(queue.Empty):
            found.get_nowait()  # lets a waiting thread see that nobody listens
