"""Prepares text in a process of its own, while the process that trains still imports torch."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from packformer.data.text import StandardLibrary, TextFiles

_CLASSES = {f"packformer.data.{made.__name__}": made for made in (StandardLibrary, TextFiles)}
_CODE = "import sys; sys.path[:] = {path!r}; from packformer.data.ahead import main; main({data!r})"


class Ahead:
    """A preparation under way.

    Args:
        process: that prepares; None if there is nothing to do.
    """

    def __init__(self, process: subprocess.Popen[bytes] | None = None) -> None:
        self._process = process

    def wait(self) -> None:
        """Returns when it has ended. Whether the cache holds the corpus then, its reader finds out:
        what went wrong is told where it happens again."""
        if self._process is not None:
            self._process.wait()

    def stop(self) -> None:
        """Ends it; another one continues where it was."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextmanager
def prepared_ahead(data: Mapping[str, Any]) -> Iterator[Ahead]:
    """Prepares text while the body runs, and not longer.

    Args:
        data: group of the configuration, plain types only. Other data than text, and text that the
            cache has already, are left alone.
    """
    ahead = Ahead(_started(data))
    try:
        yield ahead
    finally:
        ahead.stop()


def _started(data: Mapping[str, Any]) -> subprocess.Popen[bytes] | None:
    with suppress(TypeError, ValueError, OSError):  # the run tells what is wrong
        text = _text(data)
        if text is not None and not text.request().is_made():
            code = _CODE.format(path=sys.path, data=dict(data))
            return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL)
    return None


def _text(data: Mapping[str, Any]) -> StandardLibrary | TextFiles | None:
    """Text of packformer's own classes; None for other data."""
    options = {name: value for name, value in data.items() if name != "_target_"}
    made = _CLASSES.get(str(data.get("_target_")))
    return None if made is None else made(**options)


def main(data: Mapping[str, Any]) -> None:
    """Prepares ``data``: what the process of its own runs. Its exit code tells of a failure."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("packformer").setLevel(logging.INFO)
    text = _text(data)
    assert text is not None
    try:
        text.request().make()
    except (ValueError, OSError, KeyboardInterrupt):
        sys.exit(1)
