"""``eval.png``: how well tokens are predicted, by position and by length of the document."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from packformer.evaluation import Evaluation, Score, Span
from packformer.whole_file import replacing

_RUNS = ("#1b4f72", "#e67e22", "#1e8449", "#8e44ad", "#7f8c8d", "#b7950b")
_TRAINED = "#c0392b"
_DASHES = ("solid", (0, (3, 1.5)))
_NARROWEST, _STEP, _WIDEST = 1.4, 1.4, 6.4  # of lines, in points
_SHARE = "0.88"
_NAME_WIDTH = 80  # characters of a line


def draw_evaluations(found: Mapping[str, Evaluation], file: Path) -> None:
    """Draws the picture: of one run the loss, of several bits per byte where these are known.

    Args:
        found: figures by name of the run.
        file: to write.
    """
    known = all(one.total.bits_per_byte is not None for one in found.values())
    value = _bits_per_byte if len(found) > 1 and known else _loss
    figure = Figure(figsize=(6.4, 6.0), dpi=200, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    by_position, by_length = figure.subplots(2, 1)
    _draw(by_position, {name: one.by_position for name, one in found.items()}, value)
    _draw(by_length, {name: one.by_length for name, one in found.items()}, value)
    by_position.set_xlabel("position of the token in its document")
    by_length.set_xlabel("tokens of the document")
    lines, names = by_position.get_legend_handles_labels()
    wrapped = ["\n".join(wrap(name, _NAME_WIDTH)) for name in names]
    figure.legend(lines, wrapped, loc="outside upper left", frameon=False, fontsize=8)
    for place in (by_position, by_length):
        place.set_ylabel("loss (nats per token)" if value is _loss else "bits per byte")
        for length in sorted({one.trained_length for one in found.values()}):
            _mark(place, length)
    with replacing(file) as unfinished:
        canvas.print_png(unfinished)


def _loss(score: Score) -> float:
    return score.loss


def _bits_per_byte(score: Score) -> float:
    return math.nan if score.bits_per_byte is None else score.bits_per_byte


def _draw(
    place: Any, spans_of: Mapping[str, Sequence[Span]], value: Callable[[Score], float]
) -> None:
    shares = place.twinx()
    spans = next(iter(spans_of.values()))
    tokens = sum(span.score.tokens for span in spans)
    _stairs(shares, spans, lambda score: score.tokens / tokens, color=_SHARE, fill=True)
    shares.set(ylim=(0, None), ylabel="share of the tokens")
    shares.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
    shares.spines[["top"]].set_visible(False)
    for number, (name, spans) in enumerate(spans_of.items()):
        _stairs(place, spans, value, label=name, **_style(number, len(spans_of)))
    place.set_zorder(shares.get_zorder() + 1)  # the lines lie before the bars
    place.patch.set_visible(False)
    place.set_xscale("log", base=2)
    place.xaxis.set_major_formatter("{x:,.0f}")
    place.spines[["top"]].set_visible(False)


def _style(number: int, count: int) -> dict[str, Any]:
    """Of a line: each is narrower than those below it, and every other one has gaps.

    So lines that lie on each other are all seen.
    """
    step = min(_STEP, (_WIDEST - _NARROWEST) / max(1, count - 1))
    turn = number // len(_RUNS)
    return {
        "color": _RUNS[number % len(_RUNS)],
        "linewidth": _NARROWEST + step * (count - 1 - number),
        "linestyle": _DASHES[(number + turn) % len(_DASHES)],
    }


def _stairs(
    place: Any, spans: Sequence[Span], value: Callable[[Score], float], **style: Any
) -> None:
    """A level for each span; nothing where there is none."""
    edges, levels = [spans[0].first], []
    for span in spans:
        if span.first > edges[-1]:
            edges.append(span.first)
            levels.append(math.nan)
        edges.append(span.last + 1)
        levels.append(value(span.score))
    place.stairs(levels, edges, baseline=0 if style.get("fill") else None, **style)


def _mark(place: Any, trained_length: int) -> None:
    low, high = place.get_xlim()
    if not low < trained_length + 1 < high:
        return
    place.axvline(trained_length + 1, color=_TRAINED, linewidth=1)
    top = place.get_ylim()[1]
    place.text(trained_length + 1, top, "trained to here", color=_TRAINED, va="bottom", ha="right")
