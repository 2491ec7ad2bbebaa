"""Texts as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_RESULTS = ("text", "new_tokens", "stopped")


class Lines:
    """A file of records, each with what a model made of it; whole lines after every batch.

    Args:
        file: made with the first of them.
        records: all that are continued. Where one has a field that a result is named like, the
            results' names begin with ``generated_``: nothing of a record is lost.
    """

    def __init__(self, file: Path, records: Sequence[dict[str, Any]]) -> None:
        self._file = file
        taken = any(name in record for record in records for name in _RESULTS)
        self._names = [f"generated_{name}" if taken else name for name in _RESULTS]
        self._written, self._all = 0, len(records)

    def add(self, records: Sequence[dict[str, Any]], results: Sequence[tuple[Any, ...]]) -> None:
        """Writes one line for each record.

        Args:
            records: of a batch.
            results: of each: its new text, the number of new tokens, and whether a stop token
                ended it.

        Raises:
            ValueError: if they cannot be written; lines of before stay.
        """
        lines = "".join(
            json.dumps(record | dict(zip(self._names, result, strict=True)), ensure_ascii=False)
            + "\n"
            for record, result in zip(records, results, strict=True)
        )
        whole = self._file.stat().st_size if self._written else 0
        try:
            with self._file.open("ab" if self._written else "xb") as stream:
                stream.write(lines.encode())
        except OSError as error:
            self._cut(whole)
            raise ValueError(
                f"--output ({self._file}): {error.strerror}: {self._written} of {self._all} texts "
                "are there; make room, or name another file"
            ) from error
        self._written += len(records)

    def _cut(self, size: int) -> None:
        if size:
            with self._file.open("r+b") as stream:
                stream.truncate(size)
        else:
            self._file.unlink(missing_ok=True)
