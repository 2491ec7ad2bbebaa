"""The loss of a run by position in documents and by their length, kept in its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packformer.bounded import read_json
from packformer.study.run_record import POSITIONS_FILE, SUMMARY_FILE
from packformer.whole_file import replace_text

if TYPE_CHECKING:
    import torch

    from packformer.data.source import DocumentSource, Tokens
    from packformer.evaluation.score import Span

_LAST = Path("checkpoints", "last.ckpt")


@dataclass(frozen=True)
class _Beginnings:
    """The first ``longest`` tokens of each of the first ``num_documents`` documents."""

    source: DocumentSource
    num_documents: int
    longest: int

    def length(self, index: int) -> int:
        """Tokens of document ``index``."""
        return min(self.longest, self.source.length(index))

    def piece(self, index: int, start: int, length: int) -> tuple[Tokens, Tokens]:
        """Tokens and targets of a piece of document ``index``."""
        return self.source.piece(index, start, length)


def is_measured(folder: Path, tokens: int, reach: int) -> bool:
    """Whether a run's file is that of its last step, on as many tokens."""
    try:
        found, summary = read_json(folder / POSITIONS_FILE), read_json(folder / SUMMARY_FILE)
        kept = (found["steps"], found["asked_tokens"], found["reach"])
        return bool(kept == (summary["steps"], tokens, reach))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def measure_positions(
    folder: Path, tokens: int, reach: int, device: str, dtype: torch.dtype
) -> None:
    """Scores validation documents with the last weights of a run, and writes the file.

    Documents are read up to ``reach`` times the longest one of training; where a position scheme
    ends before that, up to where training did.

    Args:
        folder: of a finished run.
        tokens: to score, about.
        reach: see above.
        device: ``"cpu"`` or ``"cuda"``.
        dtype: to compute in.

    Raises:
        ValueError: if its data or weights are not what they were.
    """
    from packformer.data.checked_splits import checked_splits
    from packformer.evaluation import evaluate
    from packformer.run.build import make
    from packformer.run.load import load
    from packformer.run.own_paths import with_own_paths
    from packformer.run.resume import CONFIG_FILE, read_configuration
    from packformer.run.trusted import refuse_foreign_names
    from packformer.tools.placement import computing, place

    config = with_own_paths(read_configuration(folder / CONFIG_FILE), folder)
    refuse_foreign_names({"data": config["data"]}, folder / CONFIG_FILE)
    summary: Any = read_json(folder / SUMMARY_FILE)
    splits = checked_splits(make(config["data"]))
    if splits.fingerprint != summary.get("data_fingerprint"):
        raise ValueError("its data are not there as they were")
    model, _ = load(folder / _LAST)
    trained = model.max_position
    longest = _reached(model, reach)
    place(model, device, dtype)
    documents = _first(splits.validation, tokens, longest)
    with computing(device, dtype):
        found = evaluate(model, documents, row_length=longest, max_length=longest)
    written = {
        "steps": summary["steps"],
        "asked_tokens": tokens,
        "reach": reach,
        "trained_length": trained,
        "max_length": longest,
        "documents": found.documents,
        "tokens": found.total.tokens,
        "by_position": _spans(found.by_position),
        "by_length": _spans(found.by_length),
    }
    replace_text(folder / POSITIONS_FILE, json.dumps(written, indent=1) + "\n")


def _reached(model: Any, reach: int) -> int:
    trained = int(model.max_position)
    try:
        model.extend(reach * trained)
    except ValueError:  # learned positions
        return trained
    model.max_position = trained
    return reach * trained


def _first(source: DocumentSource, tokens: int, longest: int) -> _Beginnings:
    total, number = 0, 0
    while number < (source.num_documents or 0) and total < tokens:
        total += min(longest, source.length(number))
        number += 1
    return _Beginnings(source, number, longest)


def _spans(spans: Sequence[Span]) -> list[dict[str, float]]:
    return [
        {
            "first": span.first,
            "last": span.last,
            "documents": span.documents,
            "tokens": span.score.tokens,
            "loss": span.score.loss,
        }
        for span in spans
    ]
