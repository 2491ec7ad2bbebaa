"""Runs on other data are never compared without a word."""

from __future__ import annotations

import json
import re

import pytest
from answers import told, verdicts

from packformer.study.comparison import BETTER, NOT_COMPARED
from packformer.study.question import Question
from packformer.study.report import report_of


@pytest.mark.parametrize(
    ("summary", "settings", "words"),
    [
        ({"data_fingerprint": "x"}, {}, "other data: texts (x)"),
        ({}, {"loader": {"validation_rows": 8}}, "other validation rows: loader.validation_rows"),
        ({}, {"packing": {"row_length": 8}}, "other validation rows: packing.row_length"),
    ],
)
def test_other_data_are_never_compared(made, summary, settings, words) -> None:
    for seed in range(3):
        made("one", seed, 5 + 0.1 * seed)
        study = made("two", seed, 4 + 0.1 * seed, summary=summary, settings=settings)
    report = report_of(study, Question())
    assert verdicts(report) == {"two": NOT_COMPARED}
    assert words in told(report)


def test_another_tokenizer_is_never_compared(made) -> None:
    for seed in range(3):
        made("one", seed, 5 + 0.1 * seed)
        study = made("two", seed, 4 + 0.1 * seed)
    for file in study.glob("*_two_*/environment.json"):
        file.write_text(json.dumps({"tokenizer_sha256": "another"}))
    report = report_of(study, Question())
    assert verdicts(report) == {"two": NOT_COMPARED}
    assert "other tokenizers" in told(report)


def test_seeds_on_other_data_are_never_averaged_without_a_word(made) -> None:
    """Both variants alike, as when the text changed before seeds were added."""
    for seed in range(4):
        for name in ("one", "two"):
            summary = {"data_fingerprint": "before" if seed < 2 else "after"}
            study = made(name, seed, 5 + 0.1 * seed, summary=summary)
    report = report_of(study, Question())
    assert verdicts(report) == {"two": NOT_COMPARED}
    words = told(report)
    assert "two is not compared: its seeds do not belong together, seed 2 and seed 0" in words
    assert "one is the reference" in words
    assert words.count("other data: texts (after) here, texts (before) there") == 2


def test_made_up_documents_may_depend_on_the_seed(made) -> None:
    for seed in range(3):
        for name, loss in (("one", 5.0), ("two", 4.0)):
            summary = {"data_fingerprint": f"of seed {seed}"}
            settings = {"data": {"path": "random", "seed": seed}}
            study = made(name, seed, loss + 0.1 * seed, summary=summary, settings=settings)
    report = report_of(study, Question())
    assert verdicts(report)["two"] != NOT_COMPARED


def test_other_token_counts_are_told_once(made) -> None:
    for seed in range(3):
        made("one", seed, 5 + 0.1 * seed)
        study = made("two", seed, 4 + 0.1001 * seed, summary={"tokens_seen": 7000 + seed})
    report = report_of(study, Question())
    assert verdicts(report) == {"two": BETTER}
    (told_once,) = re.findall(r"trained on [\d,]+ tokens, the reference on [\d,]+", told(report))
    assert told_once == "trained on 7,000 tokens, the reference on 6,000"
