"""Pictures of a study that depend on what was measured."""

from __future__ import annotations

import json
import re

import pytest

from packformer.study.charts import draw_curves, draw_differences, draw_positions
from packformer.study.comparison import LOSS
from packformer.study.question import Question
from packformer.study.report import report_of


@pytest.mark.parametrize(
    ("lengths", "is_left_of_the_line"), [((8, 16, 64, 128), True), ((128, 256, 512), False)]
)
def test_the_trained_length_is_named_where_there_is_room(
    made, lengths, is_left_of_the_line
) -> None:
    study = made("gqa", 0, 5.0)
    spans = [{"first": 2, "last": last, "loss": 5.0} for last in lengths]
    trained = 64 if is_left_of_the_line else 128
    told = {"trained_length": trained, "by_position": spans, "by_length": spans}
    (next(study.iterdir()) / "loss_by_position.json").write_text(json.dumps(told))
    report = report_of(study, Question())
    picture = draw_positions(report.found, {"gqa": 0}, "by_length")
    (style,) = re.findall(r'<text style="([^"]*)"[^>]*>trained to here', picture)
    assert ("text-anchor: end" in style) == is_left_of_the_line


@pytest.mark.parametrize(
    ("rate", "unit", "last"),  # of 6,000 tokens
    [(100, "seconds", 60), (51, "seconds", 118), (50, "minutes", 2), (1, "minutes", 100),
     (0.5, "hours", 3.33)],
)  # fmt: skip
def test_time_is_in_a_unit_that_suits_the_longest_run(made, monkeypatch, rate, unit, last) -> None:
    monkeypatch.setattr("packformer.study.charts.AXES", ("seconds",))
    for seed, own in ((0, rate), (1, 10 * rate)):
        study = made("gqa", seed, 5.0)
        file = next(study.glob(f"*_seed-{seed}")) / "metrics.csv"
        file.write_text(re.sub(r",5000(,[^,]+\n)", rf",{own}\1", file.read_text()))
    report = report_of(study, Question())
    pictures = draw_curves(report.found, {"gqa": 0}, LOSS)
    (picture,) = (one for one in pictures if " of training" in one)
    assert f'aria-label="validation loss against {unit} of training"' in picture
    assert re.search(rf">{unit} of training</text>", picture)
    ticks = re.search(r'matplotlib.axis_1"(.*?)matplotlib.axis_2"', picture, re.DOTALL)
    assert ticks
    largest = max(map(float, re.findall(r">([\d.]+)</text>", ticks[1])))
    assert 0.5 * last <= largest <= 1.02 * last


def test_the_directions_of_a_difference_stand_apart(made) -> None:
    for name in ("gqa", "mha"):
        for seed in range(2):
            study = made(name, seed, 5.0 + seed + 0.1 * (name == "mha"))
    picture = draw_differences(report_of(study, Question()).found, {"gqa": 0, "mha": 1})
    assert re.search("← better\xa0{4,}worse →", picture)  # ordinary spaces are drawn as one
