"""The loss curve as a picture."""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from packformer.run.folder import read_metrics


def draw_loss_curve(folder: Path, title: str) -> Path | None:
    """Draws training and validation loss over steps; None if nothing was recorded."""
    rows = read_metrics(folder)
    series = {
        name: [(row["step"], row[name]) for row in rows if name in row]
        for name in ("train/loss", "val/loss")
    }
    if not any(series.values()):
        return None
    figure = Figure(figsize=(7, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    styles: dict[str, dict[str, Any]] = {
        "train/loss": {"color": "#9aa5b1", "linewidth": 1.4},
        "val/loss": {"color": "#d1495b", "linewidth": 1.8, "marker": "o", "markersize": 4},
    }
    for name, points in series.items():
        if points:
            steps, losses = zip(*points, strict=True)
            axes.plot(steps, losses, label=name.replace("/", " "), **styles[name])
    if series["val/loss"]:
        step, loss = series["val/loss"][-1]
        axes.annotate(
            f"{loss:.3f}",
            (step, loss),
            textcoords="offset points",
            xytext=(0, 8),
            ha="right",
            color="#d1495b",
        )
    axes.set(xlabel="optimizer step", ylabel="loss (nats per token)")
    axes.set_title("\n".join(wrap(title, 78)), fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    file = folder / "loss.png"
    figure.savefig(file)
    return file
