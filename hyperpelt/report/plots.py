"""Plots of a report, each as the text of an SVG. Only matplotlib's objects are used: no display, no global state."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib import color_sequences, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import ColorType

from hyperpelt.report.run_records import Curve

STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "font.size": 9,
    "legend.frameon": False,
    "svg.hashsalt": "hyperpelt",  # the same run gives the same bytes
}
COLOURS = color_sequences["tab10"]
MOST_POINTS = 1000  # of a curve; longer ones are thinned


def curves(series: Mapping[str, Curve], *, title: str, ylabel: str, log: bool = False) -> str:
    """Lines over optimiser steps, one a name."""
    with rc_context(STYLE):
        figure = Figure(figsize=(7, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for index, (name, curve) in enumerate(series.items()):
            steps, values = _thinned(curve)
            marker = "o" if len(steps) < 3 else None
            axes.plot(steps, values, dashes(index), label=name, color=colour(index), linewidth=1.2, marker=marker)
        label(axes, title, "step", ylabel)
        if log:
            axes.set_yscale("log")
        if len(series) > 1:
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
        return svg(figure)


def bars(scores: Mapping[str, Mapping[str, float | None]], *, title: str) -> str:
    """Grouped bars: for each task one bar a run; a run's missing score leaves a gap."""
    names = list(scores)
    tasks = list(dict.fromkeys(task for run in scores.values() for task in run))
    with rc_context(STYLE):
        figure = Figure(figsize=(max(7.0, len(tasks) * (0.4 + 0.13 * len(names))), 3.4), layout="constrained")
        axes = figure.add_subplot()
        width = 0.8 / len(names)
        for index, name in enumerate(names):
            heights = [np.nan if (score := scores[name].get(task)) is None else score for task in tasks]
            places = np.arange(len(tasks)) + (index - (len(names) - 1) / 2) * width
            shade = "0.7" if name == "majority" else colour(index - ("majority" in names))
            axes.bar(places, heights, width, label=name, color=shade)
        axes.set_xticks(range(len(tasks)), tasks, rotation=35, ha="right")
        label(axes, title, "", "points")
        axes.grid(axis="x", visible=False)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
        return svg(figure)


def heatmap(
    matrix: Float[np.ndarray, "T T"],
    names: Sequence[str],
    *,
    title: str,
    scale: tuple[float, float] = (-1.0, 1.0),
) -> str:
    """A square map of similarities in -1..1 (or of `scale`), each cell with its number."""
    size = max(3.5, 0.5 * len(names) + 1.5)
    with rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(size + 1, size), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(matrix, cmap="RdBu_r", vmin=scale[0], vmax=scale[1])
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
        axes.set_yticks(range(len(names)), names)
        for (row, column), value in np.ndenumerate(matrix):
            shade = "white" if abs(2 * (value - scale[0]) / (scale[1] - scale[0]) - 1) > 0.6 else "black"
            axes.text(
                column,
                row,
                f"{value:.2f}" if scale[1] == 1 else f"{value:.0f}",
                ha="center",
                va="center",
                fontsize=7,
                color=shade,
            )
        figure.colorbar(image, shrink=0.8)
        axes.set_title(title, loc="left", fontsize=10)
        return svg(figure)


def _thinned(curve: Curve) -> tuple[list[int], list[float]]:
    stride = -(-len(curve.steps) // MOST_POINTS)
    return curve.steps[::stride], curve.values[::stride]


def colour(index: int) -> ColorType:
    return COLOURS[index % len(COLOURS)]


def dashes(index: int) -> str:
    """Colours come round after ten lines; dashes tell the rounds apart."""
    return ("-", "--", ":", "-.")[index // len(COLOURS) % 4]


def label(axes: Axes, title: str, xlabel: str, ylabel: str) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)


def svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
