"""Any evaluation is drawn, and its lines are its figures."""

import math

import pytest
from PIL import Image, ImageColor

from packformer.evaluation import Evaluation, Score, Span
from packformer.tools.eval import picture


def evaluation(spans, trained=16):
    scores = [Span(first, last, 1, Score(nats, 10, size)) for first, last, nats, size in spans]
    size = None if spans[0][3] is None else sum(span[3] for span in spans)
    total = Score(sum(span[2] for span in spans), 10 * len(spans), size)
    return Evaluation(total, 1, tuple(scores), tuple(scores), trained, 64, 0, 0)


ONE = evaluation([(2, 2, 30.0, None)])
GAP = evaluation([(2, 2, 30.0, 20), (5, 8, 20.0, 20), (9, 16, 10.0, 0), (17, 32, 5.0, 9)])
FULL = evaluation([(2, 8, 30.0, 20), (9, 64, 20.0, 30)])


@pytest.mark.parametrize(
    "found", [{"a": ONE}, {"a": GAP}, {"a": GAP, "b": GAP}, {"a": GAP, "b": ONE}]
)
def test_any_evaluation_is_drawn(found, tmp_path):
    picture.draw_evaluations(found, tmp_path / "eval.png")
    assert (tmp_path / "eval.png").stat().st_size > 10_000


@pytest.mark.parametrize("count", [2, 6])
def test_lines_that_lie_on_each_other_are_all_seen(count, tmp_path):
    picture.draw_evaluations({f"run {n}": GAP for n in range(count)}, tmp_path / "eval.png")
    with Image.open(tmp_path / "eval.png") as drawn:
        axes = drawn.convert("RGB").crop((0, drawn.height // 3, *drawn.size))  # no legend
        seen = {color: number for number, color in axes.getcolors(1 << 20)}
    for color in picture._RUNS[:count]:
        assert seen.get(ImageColor.getrgb(color), 0) > 300, color


@pytest.mark.usefixtures("blank")
@pytest.mark.parametrize(
    ("found", "unit"),
    [({"a": FULL}, "loss (nats per token)"), ({"a": FULL, "b": FULL}, "bits per byte"),
     ({"a": FULL, "b": ONE}, "loss (nats per token)")],
)  # fmt: skip
def test_axes_are_named_by_what_is_drawn(found, unit, tmp_path, figures):
    picture.draw_evaluations(found, tmp_path / "eval.png")
    (figure,) = figures
    labels = [(place.get_xlabel(), place.get_ylabel()) for place in figure.axes[:2]]
    of = ("position of the token in its document", "tokens of the document")
    assert labels == [(label, unit) for label in of]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.texts] == list(found)
    for place in figure.axes[:2]:
        assert [text.get_text() for text in place.texts] == ["trained to here"]


def test_a_span_without_tokens_is_a_gap():
    class Place:
        def stairs(self, levels, edges, **style):
            self.levels, self.edges = levels, edges

    place = Place()
    picture._stairs(place, GAP.by_length, picture._loss)
    assert place.edges == [2, 3, 5, 9, 17, 33]
    assert [math.isnan(level) for level in place.levels] == [False, True, False, False, False]
    assert place.levels[2:] == [2.0, 1.0, 0.5]
