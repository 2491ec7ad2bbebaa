"""Pictures of a study that depend on what was measured."""

from __future__ import annotations

import json
import re

import pytest

from packformer.study.charts import draw_positions
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
    told = {"trained_length": 64 if is_left_of_the_line else 128, "by_length": spans}
    (next(study.iterdir()) / "loss_by_position.json").write_text(json.dumps(told))
    report = report_of(study, Question())
    picture = draw_positions(report.found, {"gqa": 0}, "by_length")
    (style,) = re.findall(r'<text style="([^"]*)"[^>]*>trained to here', picture)
    assert ("text-anchor: end" in style) == is_left_of_the_line
