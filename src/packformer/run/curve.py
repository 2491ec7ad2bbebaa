"""The loss curve as a picture."""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap
from typing import Any

from packformer.run.metrics_file import read_metrics
from packformer.whole_file import replacing


def draw_loss_curve(folder: Path, title: str) -> Path | None:
    """Draws training and validation loss over steps; None if nothing was recorded."""
    # At the end of a run: its start need not wait for that.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    rows = read_metrics(folder)
    series = {
        name: [(row["step"], row[name]) for row in rows if name in row]
        for name in ("train/loss", "val/loss")
    }
    if not any(series.values()):
        return None
    figure = Figure(figsize=(7, 4.2), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    styles: dict[str, dict[str, Any]] = {
        "train/loss": {"color": "#9aa5b1", "linewidth": 1.4},
        "val/loss": {"color": "#d1495b", "linewidth": 1.8, "marker": "o", "markersize": 4},
    }
    for name, points in series.items():
        if points:
            steps, losses = zip(*points, strict=True)
            alone = {"marker": "o", "markersize": 4} if len(points) == 1 else {}
            axes.plot(steps, losses, label=name.replace("/", " "), **{**styles[name], **alone})
    last = "val/loss" if series["val/loss"] else "train/loss"
    axes.annotate(
        f"{series[last][-1][1]:.3f}",
        (1, series[last][-1][1]),
        xycoords=axes.get_yaxis_transform(),  # beside the axes, where no curve runs
        textcoords="offset points",
        xytext=(4, 0),
        va="center",
        color=styles[last]["color"],
        annotation_clip=False,
    )
    axes.set(xlabel="optimizer step", ylabel="loss (nats per token)")
    axes.set_title("\n".join(wrap(title, 78)), fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    file = folder / "loss.png"
    with replacing(file) as unfinished:
        canvas.print_png(unfinished)
    return file
