"""Plots of a report, each as the text of an SVG. Only matplotlib's objects are used: no display, no global state."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import color_sequences, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.typing import ColorType

from hyperpelt.errors import visible
from hyperpelt.report.run_records import Curve

STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "font.size": 9,
    "legend.frameon": False,
    "text.parse_math": False,  # a name may hold dollar signs
    "svg.hashsalt": "hyperpelt",  # the same run gives the same bytes
    "svg.fonttype": "none",  # letters stay letters, drawn with whatever font a reader has for them
}
COLOURS = color_sequences["tab10"]
LINE = 0.19  # inches of a legend's line
STANDING = 16  # tasks whose bars stand beside each other; more lie below each other
NUMBERED = 20  # names of a map whose cells have their numbers
MOST_LINES = 12  # in one picture
WIDE = 10  # the factor from which on prices need a log scale
MOST_POINTS = 1000  # of a curve; longer ones are thinned


def curves(series: Mapping[str, Curve], *, title: str, ylabel: str, log: bool = False) -> str:
    """Lines over optimiser steps, one a name."""
    with rc_context(STYLE):
        height = max(3.2, 0.8 + LINE * len(series)) if len(series) > 1 else 3.2  # a legend has a line a name
        figure = Figure(figsize=(7, height), layout="constrained")
        axes = figure.add_subplot()
        for index, (name, curve) in enumerate(series.items()):
            steps, values = _thinned(curve)
            marker = "o" if len(steps) < 3 else None
            axes.plot(
                steps, values, dashes(index), label=listed(name), color=colour(index), linewidth=1.2, marker=marker
            )
        label(axes, title, "step", ylabel)
        if log:
            axes.set_yscale("log")
        if len(series) > 1:
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
        return svg(figure)


def small_multiples(series: Mapping[str, Curve], *, title: str, ylabel: str) -> str:
    """One small picture a name, on one scale: what many lines in one picture would hide."""
    columns = 5
    rows = -(-len(series) // columns)
    with rc_context({**STYLE, "font.size": 7}):
        figure = Figure(figsize=(9.5, 1.15 * rows + 0.4), layout="constrained")
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
        for place, (name, curve) in zip(axes, series.items(), strict=False):
            steps, values = _thinned(curve)
            place.plot(steps, values, color=colour(0), linewidth=1, marker="o" if len(steps) < 3 else None)
            place.set_title(name, loc="left", fontsize=6.5, pad=2)
        for place in axes[len(series) :]:
            place.set_visible(False)
        figure.suptitle(f"{title} ({ylabel} over steps)", x=0.01, ha="left", fontsize=10)
        return svg(figure)


def bars(scores: Mapping[str, Mapping[str, float | None]], *, title: str) -> str:
    """Grouped bars: for each task one bar a run; a missing score leaves a gap. Many tasks lie below each other."""
    names = list(scores)
    tasks = list(dict.fromkeys(task for run in scores.values() for task in run))
    lying = len(tasks) > STANDING
    length = len(tasks) * (0.16 + 0.08 * len(names)) if lying else len(tasks) * (0.4 + 0.13 * len(names))
    with rc_context(STYLE):
        size = (7.0, length + 1) if lying else (max(7.0, length), 3.4)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        width = 0.8 / len(names)
        for index, name in enumerate(names):
            heights = [np.nan if (score := scores[name].get(task)) is None else score for task in tasks]
            places = np.arange(len(tasks)) + (index - (len(names) - 1) / 2) * width
            shade = "0.7" if name == "majority" else colour(index - ("majority" in names))
            (axes.barh if lying else axes.bar)(places, heights, width, label=listed(name), color=shade)
        if lying:
            axes.set_yticks(range(len(tasks)), tasks, fontsize=8)
            axes.set_ylim(len(tasks) - 0.4, -0.6)
        else:
            axes.set_xticks(range(len(tasks)), tasks, rotation=35, ha="right")
        label(axes, title, "points" if lying else "", "" if lying else "points")
        axes.grid(axis="y" if lying else "x", visible=False)
        axes.legend(loc="upper left" if lying else "center left", bbox_to_anchor=(1, 1 if lying else 0.5), fontsize=8)
        return svg(figure)


def trades(quality: Mapping[str, float], prices: Mapping[str, Mapping[str, float]], *, title: str, ylabel: str) -> str:
    """One panel a price (log scale where prices lie far apart): what each name reaches against what it asks; points
    are numbered as in the legend."""
    with rc_context(STYLE):
        figure = Figure(figsize=(3.1 * len(prices) + 1.6, max(3.4, 0.8 + LINE * len(quality))), layout="constrained")
        panels: list[Axes] = list(figure.subplots(1, len(prices), sharey=True, squeeze=False).flatten())
        for axes, (price, asked) in zip(panels, prices.items(), strict=True):
            for number, (name, reached) in enumerate(quality.items(), 1):
                if name in asked:
                    place = (asked[name], reached)
                    axes.scatter(*place, s=26, color=colour(number - 1))
                    axes.annotate(str(number), place, (4, 3), textcoords="offset points", fontsize=7)
            if max(asked.values()) > WIDE * min(asked.values()):
                axes.set_xscale("log")
            label(axes, "", price, ylabel if axes is panels[0] else "")
        names = [Line2D([], [], linestyle="", marker="o", color=colour(index)) for index in range(len(quality))]
        named = [f"{number} {name}" for number, name in enumerate(quality, 1)]
        panels[-1].legend(names, named, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
        return svg(figure)


def heatmap(
    matrix: Float[np.ndarray, "T T"],
    names: Sequence[str],
    *,
    title: str,
    scale: tuple[float, float] = (-1.0, 1.0),
) -> str:
    """A square map of similarities in -1..1 (or of `scale`); of few names, each cell with its number."""
    many = len(names) > NUMBERED
    size = max(3.5, (0.16 if many else 0.5) * len(names) + (3.0 if many else 1.5))
    with rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(size + 1, size), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(matrix, cmap="RdBu_r", vmin=scale[0], vmax=scale[1])
        turned: dict[str, Any] = {"rotation": 90, "fontsize": 7} if many else {"rotation": 40, "ha": "right"}
        axes.set_xticks(range(len(names)), names, **turned)
        axes.set_yticks(range(len(names)), names, fontsize=7 if many else None)
        for (row, column), value in () if many else np.ndenumerate(matrix):
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


def listed(name: str) -> str:
    """A name as a legend shows it: matplotlib takes one that begins with an underscore for none."""
    return f" {name}" if name.startswith("_") else name


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
    with warnings.catch_warnings():
        # Only room for a letter is made with our font.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return visible(buffer.getvalue())  # XML has no control characters, a name may
