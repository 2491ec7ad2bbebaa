"""Matplotlib's figures as SVG that lies in the page and takes its colours and letters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from io import StringIO
from itertools import count
from typing import Any

INK, MUTED, RULE = "#1b1f24", "#5b6472", "#dfe3e8"
_OF_PAGE = {INK: "var(--ink)", MUTED: "var(--muted)", RULE: "var(--rule)"}
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Of variants other than the reference, told apart by the colour-blind (Okabe and Ito 2008)."""
DASHES: tuple[Any, ...] = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "packformer",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
}
_numbers = count()


@contextmanager
def chart(described: str, height: float = 2.5) -> Iterator[tuple[Any, list[str]]]:
    """Axes to draw on, of a size that a phone shows without loss.

    Args:
        described: the picture in words, for those who do not see it.
        height: inches.

    Yields:
        The axes, and a list that holds the SVG afterwards.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    made: list[str] = []
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.5, height), layout="constrained")
        canvas = FigureCanvasSVG(figure)
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        yield axes, made
        text = StringIO()
        canvas.print_svg(text, metadata={"Date": None})
    made.append(_inline(text.getvalue(), described, f"c{next(_numbers)}"))


def style_of(number: int) -> dict[str, Any]:
    """Line of a variant: the reference, number 0, in ink, and each of the others by its own."""
    if number == 0:
        return {"color": INK, "linestyle": "solid"}
    place = number - 1
    dash = DASHES[(place + place // len(COLOURS)) % len(DASHES)]
    return {"color": COLOURS[place % len(COLOURS)], "linestyle": dash}


def sample(number: int) -> str:
    """The line of a variant, to stand before its name."""
    style = style_of(number)
    colour = _OF_PAGE.get(style["color"], style["color"])
    dash = style["linestyle"]
    dashes = (
        "" if dash == "solid" else f' stroke-dasharray="{" ".join(str(3 * d) for d in dash[1])}"'
    )
    return (
        '<svg class="sample" viewBox="0 0 28 8" aria-hidden="true"><path d="M0 4H28" '
        f'style="stroke:{colour}" stroke-width="3" fill="none"{dashes}/></svg>'
    )


def _inline(text: str, described: str, prefix: str) -> str:
    """Without what a file of its own needs, and with ids that no other picture has."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>", r"<svg \1>", text, count=1)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r'(url\(#|href="#)', rf"\1{prefix}-", text)
    text = re.sub(r"(font: (?:\d+ )?[\d.]+px) [^;\"]+", r"\1 var(--font)", text)
    for colour, name in _OF_PAGE.items():
        text = text.replace(colour, name)
    label = escape(described, quote=True)
    return text.replace("<svg ", f'<svg class="chart" role="img" aria-label="{label}" ', 1)
