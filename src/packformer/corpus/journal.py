"""A record of finished shards, so that an interruption loses only the shard in work."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packformer.corpus.shards import TOKENIZER, write_whole

JOURNAL = ".progress.jsonl"


class Journal:
    """A line for what the corpus is made of, then one for each finished part.

    Args:
        folder: of the corpus.
        fingerprint: of all that its bytes depend on.

    Attributes:
        parts: that are finished.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._file = folder / JOURNAL
        self._begun = {"identity": fingerprint}  # the key in every journal; it is a fingerprint
        self.parts: list[dict[str, Any]] = []

    def is_of_this(self) -> bool:
        """Whether the journal on disk belongs to this corpus."""
        lines = self._lines()
        return bool(lines) and lines[0] == self._begun

    def load(self) -> None:
        """The finished parts of this corpus; starts the journal if there are none.

        Raises:
            ValueError: if parts of another corpus are there.
        """
        lines = self._lines()
        if len(lines) > 1 and lines[0] != self._begun:
            raise ValueError(
                f"{self._file.parent} holds the beginning of a corpus from other files or with "
                "other settings: choose another folder, or remove it"
            )
        if lines[:1] != [self._begun]:
            lines = []
            self._file.with_name(TOKENIZER).unlink(missing_ok=True)  # made for another corpus
        self.parts = lines[1:]
        self._save([self._begun, *self.parts])

    def note(self, part: dict[str, Any]) -> None:
        """A part that is finished.

        Raises:
            OSError: if it cannot be written; then it is not finished.
        """
        line = (json.dumps(part) + "\n").encode()
        size = self._file.stat().st_size
        try:
            with self._file.open("ab", buffering=0) as stream:
                if stream.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(stream.fileno())
        except OSError as error:
            os.truncate(self._file, size)
            error.filename = str(self._file)
            raise
        self.parts.append(part)

    def close(self) -> None:
        """Ends the journal of a finished corpus: keeps only what the corpus was made of."""
        if self._lines() != [self._begun]:
            self._save([self._begun])

    def _lines(self) -> list[dict[str, Any]]:
        found = []
        for line in self._file.read_text().splitlines() if self._file.exists() else ():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:  # cut off by a kill: its part was not finished
                break
        return found

    def _save(self, lines: Sequence[dict[str, Any]]) -> None:
        """The whole file, or none of it."""
        text = "".join(json.dumps(line) + "\n" for line in lines)
        write_whole(self._file, text, self._file.with_name(f"{JOURNAL}.new"))
