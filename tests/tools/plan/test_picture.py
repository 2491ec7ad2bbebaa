"""The picture shows what is full as full."""

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
