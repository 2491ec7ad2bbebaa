"""Lists the files below a folder: follows links, names each once, counts what it leaves out."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from packformer.corpus.left_out import LeftOut
from packformer.corpus.prepared import check_not_prepared


class FolderWalk:
    """Finds files; remembers, over all folders and files it is given, what it has found.

    Attributes:
        files: found, those of a folder in the order of their names.
        left_out: hidden, special and repeated ones.
        special: paths of sockets, pipes and devices.
    """

    def __init__(self) -> None:
        self.files: list[str] = []
        self.left_out = LeftOut()
        self.special: list[str] = []
        self._seen: set[str] = set()

    def add_file(self, path: str) -> None:
        """A file, unless it was found before.

        Raises:
            ValueError: if it belongs to a prepared corpus.
        """
        check_not_prepared(Path(path))
        if self._is_new(path):
            self.files.append(path)

    def add_folder(self, path: str) -> None:
        """All files below it, links to files and folders followed.

        Raises:
            ValueError: if a link leads nowhere, a folder cannot be read, or something is a prepared
                corpus or a part of one.
        """
        waiting = [path]
        while waiting:  # a stack, so that folders may lie as deep as they like
            place = waiting.pop()
            kind = _kind(place)
            if kind is stat.S_ISDIR:
                check_not_prepared(Path(place))
                if self._is_new(place):
                    waiting += reversed(self._entries(place))
            elif kind is stat.S_ISREG:
                self.add_file(place)
            else:
                self.special.append(place)
                self.left_out += LeftOut(special=1)

    def _is_new(self, path: str) -> bool:
        real = os.path.realpath(path)
        if real in self._seen:
            self.left_out += LeftOut(repeated=1)
            return False
        self._seen.add(real)
        return True

    def _entries(self, folder: str) -> list[str]:
        try:
            names = sorted(os.listdir(folder))
        except OSError as error:
            raise ValueError(
                f"{folder} cannot be read ({error.strerror}): allow it, or take it out of the input"
            ) from error
        shown = [name for name in names if not name.startswith(".")]
        self.left_out += LeftOut(hidden=len(names) - len(shown))
        return [os.path.join(folder, name) for name in shown]


def _kind(path: str) -> Callable[[int], bool] | None:
    """``stat.S_ISDIR``, ``stat.S_ISREG``, or None for what is neither."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if os.path.islink(path):
            raise ValueError(
                f"{path} is a link to {os.readlink(path)}, which cannot be followed "
                f"({error.strerror}): mend or remove it"
            ) from error
        raise ValueError(
            f"{path} cannot be read ({error.strerror}): allow it, or take it out of the input"
        ) from error
    return next((kind for kind in (stat.S_ISDIR, stat.S_ISREG) if kind(mode)), None)


def check_regular(path: Path) -> None:
    """Refuses a path that is not a regular file, such as the shell's ``<(command)``.

    Raises:
        ValueError: naming it.
    """
    if not path.is_file():
        raise ValueError(
            f"{path} is no file but a pipe, socket or device, which can be read only once: give a "
            "file, or pipe into `packformer prepare -`"
        )
