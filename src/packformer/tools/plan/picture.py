"""``plan.png``: how long documents are, and how the first rows look in each way of packing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullFormatter
from numpy.typing import NDArray

from packformer.tools.plan.costs import Cost

_ROWS = 8
_BINS = 40
_PIXELS = 1600  # of a row's strip
_SEPARATED = 8  # pixels from which on a document has an edge of its own
_DOCUMENTS = np.array([to_rgb(c) for c in ("#1b4f72", "#5dade2", "#2874a6", "#85c1e9")])
_EMPTY = np.array(to_rgb("#f1948a"))
_CUT = "#c0392b"


def draw_plan(
    lengths: NDArray[np.int64], found: Sequence[Cost], row_length: int, limit: int, file: Path
) -> None:
    """Draws the picture.

    Args:
        lengths: of all documents, in tokens.
        found: the ways; those with rows are drawn.
        row_length: tokens of a row.
        limit: tokens of the longest document that is not cut.
        file: to write.
    """
    shown = [cost for cost in found if cost.rows]
    most = max((len(cost.rows[:_ROWS]) for cost in shown), default=0)
    height = 2.6 + (0.7 + 0.1 * most) * len(shown)
    figure = Figure(figsize=(6.4, height), dpi=200, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    histogram, *places = figure.subplots(1 + len(shown), 1)
    _draw_lengths(histogram, lengths, limit)
    for place, cost in zip(places, shown, strict=True):
        for number, row in enumerate(cost.rows[:_ROWS]):
            extent = (0, row_length, number + 0.92, number + 0.08)
            place.imshow(strip(row, row_length)[None], aspect="auto", extent=extent)
        place.set(xlim=(0, row_length), ylim=(most, 0), yticks=[])
        place.set_title(f"{cost.name}: {cost.fill:.1%} full, {cost.kept:.1%} of the tokens kept")
        place.spines[["left"]].set_visible(False)
        place.xaxis.set_major_formatter("{x:,.0f}")
    if places:
        places[-1].set_xlabel("tokens of a row: documents in shades of blue, empty room in red")
    for place in (histogram, *places):
        place.spines[["top", "right"]].set_visible(False)
    canvas.print_png(file)


def strip(row: Sequence[int], row_length: int) -> NDArray[np.float64]:
    """A row as colours of pixels, ``[pixels, 3]``; each is the mean of what it covers.

    However short documents are, they colour what they fill. Edges are drawn where there is room.

    Args:
        row: tokens of its documents, from the left.
        row_length: tokens of the row.
    """
    ends = np.cumsum(row)
    numbers = np.searchsorted(ends, np.arange(row_length), side="right")
    colours = np.where((numbers < len(row))[:, None], _DOCUMENTS[numbers % len(_DOCUMENTS)], _EMPTY)
    if row_length > _PIXELS:
        firsts = np.arange(_PIXELS) * row_length // _PIXELS
        sizes = np.diff(firsts, append=row_length)
        pixels = np.add.reduceat(colours, firsts) / sizes[:, None]
    else:
        pixels = colours[np.arange(_PIXELS) * row_length // _PIXELS]
    wide = np.asarray(row) * _PIXELS >= _SEPARATED * row_length
    edges = (ends[wide] * _PIXELS // row_length).astype(np.int64) - 1
    pixels[edges] = 1.0
    return pixels


def _draw_lengths(place: Any, lengths: NDArray[np.int64], limit: int) -> None:
    lengths = lengths[lengths > 0]
    longest = int(lengths.max())
    bins = np.geomspace(1, max(10, longest + 1), _BINS + 1)
    share = np.full(len(lengths), 1 / len(lengths))
    place.hist(lengths, bins, weights=share, color="0.75", label="documents")
    place.hist(
        lengths,
        bins,
        weights=lengths / lengths.sum(),
        histtype="step",
        linewidth=1.6,
        color=_DOCUMENTS[0],
        label="tokens",
    )
    place.set(xscale="log", xlabel="tokens of a document", ylabel="share")
    place.xaxis.set_major_formatter(EngFormatter(sep=""))
    place.xaxis.set_minor_formatter(NullFormatter())
    place.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    place.legend(frameon=False, loc="upper left")
    if longest > limit:
        place.axvline(limit, color=_CUT, linewidth=1)
        top = place.get_ylim()[1]
        place.text(limit, top, "cut at this length", color=_CUT, va="bottom", ha="center")
