"""The picture of the loss: its last value is told where no curve runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from packformer.run.curve import draw_loss_curve


def _record(folder: Path, losses: list[float], *, validated: bool) -> None:
    lines = ["step,train/loss,val/loss"]
    for step, loss in enumerate(losses, start=1):
        lines += [f"{step},{loss},"] + [f"{step},,{loss}"] * validated
    (folder / "metrics.csv").write_text("\n".join([*lines, ""]))


@pytest.mark.parametrize("validated", [True, False])
@pytest.mark.parametrize(
    "losses",
    [
        [5.0],
        [5.0] * 40,
        [9 - step / 100 for step in range(400)],
        [5 + step / 100 for step in range(40)],
    ],
    ids=["one step", "flat", "falling", "rising"],
)
def test_the_last_value_stands_beside_the_curves_and_within_the_picture(
    tmp_path: Path, figures: list, losses: list[float], validated: bool
) -> None:
    _record(tmp_path, losses, validated=validated)
    draw_loss_curve(tmp_path, "title")
    (figure,) = figures
    (axes,) = figure.axes
    (label,) = axes.texts
    assert label.get_text() == f"{losses[-1]:.3f}"
    box = label.get_window_extent()
    assert box.x0 >= axes.get_window_extent().x1, "the curves end at the axes"
    assert box.x1 <= figure.bbox.x1
    for line in axes.lines:
        assert len(line.get_xdata()) > 1 or line.get_marker() == "o", "one point is seen"


def test_without_records_there_is_no_picture(tmp_path: Path) -> None:
    assert draw_loss_curve(tmp_path, "title") is None
