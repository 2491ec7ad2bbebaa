"""The picture shows what is full as full."""

from itertools import pairwise

import numpy as np
import pytest

from packformer.data import PackingSettings
from packformer.tools.plan.costs import costs
from packformer.tools.plan.picture import _EMPTY, draw_plan, strip


def is_empty(pixels):
    return np.abs(pixels - _EMPTY).max(-1) < 0.01


@pytest.mark.parametrize("row_length", [1, 2, 7, 1600, 4096, 262_144])
@pytest.mark.parametrize("length", [1, 2, 5, 3000])
def test_documents_fill_what_they_fill_however_short_they_are(row_length, length):
    for fill in (0.5, 1.0):
        count = max(1, int(fill * row_length) // length)
        row = [min(length, row_length)] * count
        pixels = strip(row, row_length)
        empty = 1 - sum(row) / row_length
        assert is_empty(pixels).mean() == pytest.approx(empty, abs=0.002)
        white = (pixels > 0.99).all(-1).mean()
        assert white <= 1 / 8, "edges hide documents"
        assert ((pixels >= 0) & (pixels <= 1)).all()


@pytest.mark.parametrize("lengths", [[10**8], [2] * 1000, [512] * 99, [3, 900, 0, 1, 5000], [2]])
def test_any_corpus_is_drawn(lengths, tmp_path):
    found = costs(lengths, PackingSettings(4096, 1024))
    draw_plan(np.array(lengths), found, 4096, 1024, tmp_path / "plan.png")
    assert (tmp_path / "plan.png").stat().st_size > 10_000


def test_each_way_stands_over_its_rows_within_the_picture(tmp_path, figures):
    lengths = [3, 900, 1, 5000] * 20
    shown = [cost for cost in costs(lengths, PackingSettings(4096, 1024)) if cost.rows]
    draw_plan(np.array(lengths), shown, 4096, 1024, tmp_path / "plan.png")
    (figure,) = figures
    histogram, *places = figure.axes
    assert histogram.get_xlabel() == "tokens of a document"
    assert [text.get_text() for text in histogram.texts] == ["cut at this length"]
    for place, cost in zip(places, shown, strict=True):
        assert place.get_title().startswith(f"{cost.name}: {cost.fill:.1%} full, ")
        assert len(place.images) == min(8, len(cost.rows))
    assert places[-1].get_xlabel().startswith("tokens of a row: ")
    for place in figure.axes:
        for text in (place.title, place.xaxis.label, place.yaxis.label, *place.texts):
            if text.get_text():
                box = text.get_window_extent()
                assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1, text
                assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1, text
    boxes = [place.get_tightbbox() for place in figure.axes]
    for upper, lower in pairwise(boxes):
        assert upper.y0 >= lower.y1, "each has room of its own"
