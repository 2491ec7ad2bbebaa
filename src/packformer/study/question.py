"""What a report is asked, kept beside the runs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from packformer.bounded import read_json
from packformer.settings import check_whole
from packformer.study.placed import Placed
from packformer.study.tuning import Tuning
from packformer.whole_file import replace_text

STUDY_FILE = "study.json"


@dataclass(frozen=True)
class Question:
    """What a report is asked.

    Attributes:
        reference: label of the variant that others are compared with; None for the first.
        sizes: setting that makes the ladder; None without one.
        hold_out: how many of the largest sizes are predicted instead of fitted.
        seeds: that each variant was to have, if that is known.
        placed: variants at each size, if they have folders of their own.
        asked: overrides of every variant at every size, if that is known.
        tuning: what is tuned for each of them; None if nothing is.
    """

    reference: str | None = None
    sizes: str | None = None
    hold_out: int = 1
    seeds: tuple[int, ...] = ()
    placed: tuple[Placed, ...] = ()
    asked: tuple[tuple[str, ...], ...] = ()
    tuning: Tuning | None = None


def write_question(question: Question, folder: Path) -> None:
    """Writes ``study.json``."""
    replace_text(folder / STUDY_FILE, json.dumps(asdict(question), indent=2) + "\n")


def read_question(folder: Path) -> Question:
    """What ``write_question`` wrote; of an ordinary sweep, a question without wishes.

    Raises:
        ValueError: if the file is damaged.
    """
    file = folder / STUDY_FILE
    if not file.is_file():
        return Question()
    try:
        found = read_json(file)
        question = Question(
            reference=None if found["reference"] is None else str(found["reference"]),
            sizes=None if found["sizes"] is None else str(found["sizes"]),
            hold_out=found["hold_out"],
            seeds=tuple(int(seed) for seed in found["seeds"]),
            placed=tuple(
                Placed(str(one["folder"]), tuple(map(str, one["overrides"])), str(one["told"]))
                for one in found.get("placed", found.get("matched", ()))  # as it was called before
            ),
            asked=tuple(tuple(map(str, one)) for one in found.get("asked", ())),
            tuning=_tuning(found.get("tuning")),
        )
        check_whole("hold_out", question.hold_out, at_least=0)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is not what a study wrote ({error}): remove it") from error
    return question


def _tuning(found: Any) -> Tuning | None:
    if found is None:
        return None
    return Tuning(str(found["setting"]), tuple(map(str, found["values"])), int(found["seed"]))
