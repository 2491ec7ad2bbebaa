"""The checkpoints before the last one, which stay until the next one has been read back."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

_PREVIOUS = "previous{}.ckpt"


class FormerCheckpoints:
    """``previous.ckpt``, ``previous-2.ckpt``, ... beside ``last.ckpt``, all of them whole.

    Each checkpoint is read back in a thread while training continues. One that is not as it was
    written takes the place of none before it.

    Args:
        last: the file of the last checkpoint.
        keep: how many checkpoints are kept, with the last one.
        why_damaged: what is wrong with a file; None if it is whole.
    """

    def __init__(self, last: Path, keep: int, why_damaged: Callable[[Path], str | None]) -> None:
        self._last = last
        names = [_PREVIOUS.format("" if number == 1 else f"-{number}") for number in range(1, keep)]
        self._files = [last.with_name(name) for name in names]
        self._why_damaged = why_damaged
        self._reason: str | None = None
        self._thread: threading.Thread | None = None

    def keep_last(self) -> None:
        """Makes the last checkpoint the previous one, if it is whole: it is about to be replaced.

        ``last.ckpt`` is there at every instant.
        """
        if not self._last.is_file():
            return
        if self._thread is None:
            self.read_back()
        self.join()
        if self._reason is not None:
            log.warning("%s is not whole (%s): the one before it stays", self._last, self._reason)
            return
        previous = self._files[0]
        if previous.is_file() and previous.samefile(self._last):  # of a save that was interrupted
            return
        for file, older in reversed(list(zip(self._files, self._files[1:], strict=False))):
            if file.is_file():
                os.replace(file, older)
        _link(self._last, previous)

    def read_back(self) -> None:
        """Begins to read the last checkpoint."""
        # The interpreter waits for it. It would abort the process if it met torch's reader of files
        # in a thread that it does not wait for.
        self._thread = threading.Thread(target=self._read, name="read back", daemon=False)
        self._thread.start()

    def join(self) -> None:
        """Waits until it has been read."""
        if self._thread is not None:
            self._thread.join()

    def check(self) -> None:
        """Waits until the last checkpoint has been read.

        Raises:
            OSError: if it is not as it was written; names another one beside it that is.
        """
        self.join()
        if self._reason is None:
            return
        found = self._last.parent.glob("*.ckpt")
        beside = [file for file in found if file != self._last and file.is_file()]
        newest_first = sorted(beside, key=lambda file: file.stat().st_mtime, reverse=True)
        whole = next((file for file in newest_first if self._why_damaged(file) is None), None)
        left = "no other is whole" if whole is None else f"{whole} is whole: continue from it"
        raise OSError(f"{self._last} was saved and does not read back ({self._reason}); {left}")

    def _read(self) -> None:
        self._reason = self._why_damaged(self._last)


def _link(file: Path, other: Path) -> None:
    """Gives ``file`` the name ``other`` too, in one step; where that cannot be, instead."""
    link = other.with_name(f".{other.name}.{os.getpid()}")
    link.unlink(missing_ok=True)
    try:
        os.link(file, link)
    except OSError:  # a file system without links: for a moment there is no last.ckpt
        os.replace(file, other)
    else:
        os.replace(link, other)
