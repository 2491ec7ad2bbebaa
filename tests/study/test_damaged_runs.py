"""A damaged file of a run is named, and what it held is left out."""

from __future__ import annotations

import json
import re

import pytest
from answers import told, verdicts

from packformer.study.comparison import NOT_COMPARED
from packformer.study.question import Question
from packformer.study.report import report_of, write_report

pytestmark = pytest.mark.usefixtures("blank")


@pytest.mark.parametrize("content", ['{"val/loss": 5.1', "[]", "{}", "\0\xff"])
def test_a_damaged_summary_is_named_and_its_run_is_not_blamed(made, content) -> None:
    for seed in range(3):
        made("one", seed, 5 + 0.1 * seed)
        study = made("two", seed, 5.01 + 0.11 * seed)
    (file,) = study.glob("*_two_seed-1/summary.json")
    file.write_text(content, encoding="latin-1")
    report = report_of(study, Question())
    words = f"summary.json of {file.parent.name} cannot be read"
    assert f"Not in these figures: {words}." in told(report)
    assert [one for one in report.cannot if words in one]
    assert not re.search("failed or|unfinished|looks better", told(report))
    assert report.found[1].loss.count == report.found[1].seeds == 2
    assert words in write_report(report, study).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "value"), [("steps", "abc"), ("steps", [1]), ("val/loss", "abc"), ("flops", True)]
)
def test_text_in_place_of_a_number_of_a_summary_is_named(made, name, value) -> None:
    for seed in range(3):
        made("one", seed, 5 + 0.1 * seed)
        study = made("two", seed, 5.01 + 0.11 * seed)
    (file,) = study.glob("*_two_seed-1/summary.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), name: value}))
    report = report_of(study, Question())
    words = f"summary.json of {file.parent.name} cannot be read ({name} ({value}) must be a"
    assert [one for one in report.cannot if words in one]
    assert not re.search("diverged|failed or|looks better", told(report))
    assert report.found[1].loss.count == 2
    assert words in write_report(report, study).read_text(encoding="utf-8")


def test_without_a_summary_that_can_be_read_nothing_is_said(made) -> None:
    made("one", 0, 5.0)
    study = made("two", 0, 5.0)
    for file in study.glob("*/summary.json"):
        file.write_text("[]")
    words = told(report_of(study, Question()))
    assert "one is the reference, and no finished run of it can be read." in words
    assert "two: no finished run can be read, so nothing can be said." in words


_HEAD = b"step,val/loss\n"


@pytest.mark.parametrize(
    "content",
    [
        b"garbage",
        b"garbage\nof several, lines\n",
        bytes(range(256)) * 8,
        b"",
        _HEAD + b"10,5\n20,\x00\n",
        _HEAD + b"10,5\n20,5,5\n",
        _HEAD + b"10,5\n,5\n",
        _HEAD + b"10,5\n2",
        _HEAD + b"10," + b"5" * 400 + b"\n",
        _HEAD + b"10," + b"5" * 200_000 + b"\n",
    ],
)
def test_a_damaged_curve_is_named_and_left_out(made, content) -> None:
    for seed in range(2):
        study = made("one", seed, 5 + 0.1 * seed)
    (file,) = study.glob("*_one_seed-1/metrics.csv")
    file.write_bytes(content)
    report = report_of(study, Question())
    words = f"metrics.csv of {file.parent.name} cannot be read: the run's curve is left out."
    assert words in report.cannot
    assert [bool(run.metrics) for run in report.runs] == [True, False]
    assert report.found[0].loss.count == 2


def test_half_a_row_of_a_killed_run_is_no_damage(made) -> None:
    made("one", 0, 5.0)
    study = made("one", 1, 5.0, state="unfinished", reached=30)
    (file,) = study.glob("*_one_seed-1/metrics.csv")
    with file.open("a") as stream:
        stream.write("40,5.")
    report = report_of(study, Question())
    assert report.runs[1].steps_done == 30
    assert "cannot be read" not in told(report)


def test_without_its_tokenizer_a_run_is_not_compared(made) -> None:
    made("one", 0, 5.0)
    study = made("two", 0, 5.0)
    (file,) = study.glob("*_two_*/environment.json")
    file.write_text("")
    report = report_of(study, Question())
    assert verdicts(report) == {"two": NOT_COMPARED}
    words = f"environment.json of {file.parent.name} cannot be read: its tokenizer is not known"
    assert words in told(report)


def test_a_damaged_failure_is_still_a_failure(made) -> None:
    made("one", 0, 5.0)
    study = made("one", 1, None, state="failed")
    (file,) = study.glob("*/failure.json")
    file.write_text("{")
    words = f"a run of unknown seed failed (failure.json of {file.parent.name} cannot be read)"
    assert words in told(report_of(study, Question(reference="one")))


@pytest.mark.parametrize(
    "change",
    [
        {"trained_length": None},
        {"trained_length": "x"},
        {"by_length": None},
        {"by_length": "a"},
        {"by_position": [{"last": 2}]},
        {"by_position": [3]},
    ],
)
def test_losses_by_position_that_are_none_are_named_and_left_out(made, change) -> None:
    for seed in range(2):
        made("one", seed, 5.0 + seed / 10)
        study = made("two", seed, 5.0 + seed / 9)
    (folder,) = study.glob("*_two_seed-1")
    spans = [{"first": 2, "last": 2, "loss": 5.0}]
    right = {"trained_length": 64, "by_position": spans, "by_length": spans}
    (folder / "loss_by_position.json").write_text(json.dumps({**right, **change}))
    report = report_of(study, Question())
    page = write_report(report, study).read_text(encoding="utf-8")
    assert "loss_by_position.json" in page
