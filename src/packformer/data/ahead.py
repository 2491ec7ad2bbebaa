"""Prepares text in a process of its own, while the process that trains still imports torch."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from tempfile import TemporaryFile
from typing import IO, Any

from packformer.data.remarks import note_told, told
from packformer.data.text import StandardLibrary, TextFiles

_CLASSES = {f"packformer.data.{made.__name__}": made for made in (StandardLibrary, TextFiles)}
_ERRORS: dict[str, type[Exception]] = {"ValueError": ValueError, "OSError": OSError}
_CODE = "import sys; sys.path[:] = {path!r}; from packformer.data.ahead import main; main({data!r})"


class Ahead:
    """A preparation under way.

    Args:
        process: that prepares; None if there is nothing to do.
        told: file that it writes what it told to, or its error, if it fails.
    """

    def __init__(
        self, process: subprocess.Popen[bytes] | None = None, told: IO[bytes] | None = None
    ) -> None:
        self._process, self._told = process, told

    def wait(self) -> None:
        """Returns when it has ended; what it told is not told again.

        Raises:
            ValueError: if the text cannot be prepared.
            OSError: likewise, or if the process was ended from without.
        """
        if self._process is None or self._told is None:
            return
        code = self._process.wait()
        self._told.seek(0)
        answer = self._told.read()
        if not code:
            note_told(json.loads(answer))
            return
        if not answer:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise OSError(
                f"preparing the text ended with {how}, maybe for want of memory: start again, it "
                "continues where it was"
            )
        kind, message = json.loads(answer)
        raise _ERRORS[kind](message)

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

    Raises:
        ValueError: if there is no text, or the tokenizer is none.
        OSError: if one of them cannot be read.
    """
    with TemporaryFile() as told:
        ahead = Ahead(_started(data, told), told)
        try:
            yield ahead
        finally:
            ahead.stop()


def _started(data: Mapping[str, Any], told: IO[bytes]) -> subprocess.Popen[bytes] | None:
    text = None
    with suppress(TypeError):  # the run tells which setting is missing or unknown
        text = _text(data)
    if text is None or text.request().is_made():
        return None
    with suppress(OSError):  # no process can be started: the run prepares it by itself
        command = [sys.executable, "-c", _CODE.format(path=sys.path, data=dict(data))]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=told)
    return None


def _text(data: Mapping[str, Any]) -> StandardLibrary | TextFiles | None:
    """Text of packformer's own classes; None for other data."""
    options = {name: value for name, value in data.items() if name != "_target_"}
    made = _CLASSES.get(str(data.get("_target_")))
    return None if made is None else made(**options)


def main(data: Mapping[str, Any]) -> None:
    """Prepares ``data``: what the process of its own runs. Writes to standard output what it
    told of the corpus, or its error."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("packformer").setLevel(logging.INFO)
    text = _text(data)
    assert text is not None
    try:
        text.request().make()
        print(json.dumps(told()))
    except KeyboardInterrupt:
        sys.exit(1)
    except (ValueError, OSError) as error:
        kind = next(name for name, known in _ERRORS.items() if isinstance(error, known))
        print(json.dumps([kind, str(error)]))
        sys.exit(1)
