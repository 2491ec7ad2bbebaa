"""What a run should know of its corpora, told once: by the process that finds it, or that reads it.

Imports no torch: text may be prepared in a process of its own (``data/ahead.py``).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

log = logging.getLogger(__name__)

_told: dict[tuple[str, str], None] = {}


def note_told(remarks: Iterable[Sequence[str]]) -> None:
    """Notes what this run's user has read already.

    Args:
        remarks: of each the corpus's folder or URL, and the sentence.
    """
    _told.update(dict.fromkeys((corpus, sentence) for corpus, sentence in remarks))


def told() -> list[tuple[str, str]]:
    """What was told, in its order; for ``note_told`` in another process of the run."""
    return list(_told)


def tell_once(corpus: str, remarks: Iterable[str], *, named: bool) -> None:
    """Logs what was not told before: a process may open a corpus often, as in a sweep.

    Args:
        corpus: its folder or URL.
        remarks: a sentence each.
        named: whether the log names the corpus, since there are others.
    """
    for remark in remarks:
        if (corpus, remark) not in _told:
            note_told([(corpus, remark)])
            log.warning("%s%s", f"{corpus}: " if named else "", remark)
