"""Matched variants keep their names in a report, and it says how they were matched."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from packformer.study.placed import Placed
from packformer.study.question import Question, read_question, write_question
from packformer.study.report import report_of, write_report

pytestmark = pytest.mark.usefixtures("blank")

MHA = Placed("mha", ("+experiment=mha",), "mha: as it is")
GQA = Placed("gqa", ("+experiment=gqa",), "gqa: model.hidden_width 512 -> 600")


def test_labels_are_those_of_the_variants_in_their_order(made) -> None:
    for seed in range(2):
        made("gqa", seed, 5 + seed, within="gqa", given=("model.hidden_width=600",))
        study = made("mha", seed, 5.5 + seed, within="mha")
    made("gqa", 2, 5.0, within="gqa", given=("model.hidden_width=600",), state="failed")
    write_question(Question(seeds=(0, 1, 2), placed=(MHA, GQA)), study)
    report = report_of(study, read_question(study))
    assert [one.variant.label for one in report.found] == ["mha", "gqa"]
    assert [len(one.variant.runs) for one in report.found] == [2, 3]
    page = write_report(report, study).read_text(encoding="utf-8")
    assert "gqa: model.hidden_width 512 -&gt; 600" in page
    assert report.lines()[-2:] == [MHA.told, GQA.told]
    with Path(study, "report.csv").open() as stream:
        assert [row["matched"] for row in csv.DictReader(stream)] == [MHA.told, GQA.told]


def test_variants_are_matched_at_each_size(made) -> None:
    matched = []
    for name, width in (("mha", 64), ("mha", 128), ("gqa", 64), ("gqa", 128)):
        size, hidden = f"model.width={width}", f"model.hidden_width={4 * width + len(matched)}"
        own, place = (f"+experiment={name}", size), f"{name}-{width}"
        matched.append(Placed(place, own, f"{name} at width={width}: matched"))
        for seed in range(2):
            study = made(name, seed, 5 + seed / width, within=place, given=(size, hidden))
    question = Question(sizes="model.width", placed=tuple(matched))
    found = {one.variant.name: one.variant for one in report_of(study, question).found}
    assert {name: variant.matched for name, variant in found.items()} == {
        f"{name} at width={width}": f"{name} at width={width}: matched"
        for name in ("mha", "gqa")
        for width in (64, 128)
    }
    assert all(len(variant.runs) == 2 for variant in found.values())


def test_a_question_of_an_older_study_matches_nothing(tmp_path: Path) -> None:
    question = Question(placed=(GQA,))
    write_question(question, tmp_path)
    assert read_question(tmp_path) == question
    file = tmp_path / "study.json"
    text = file.read_text()
    file.write_text(text[: text.index(',\n  "placed"')] + "\n}")
    assert read_question(tmp_path) == replace(question, placed=())
    file.write_text(text.replace('"placed"', '"matched"'))  # as it was called
    assert read_question(tmp_path) == question
