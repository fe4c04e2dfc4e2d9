"""What `hyperpelt transfer` found, for pages: learning curves over the number of shots, and the table.

Read from the folder's summary.json; nothing is computed anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from hyperpelt.errors import UserError, shown
from hyperpelt.files.atomic import write_text
from hyperpelt.files.reading import read_object
from hyperpelt.report.html import document, picture, table
from hyperpelt.report.plots import STYLE, colour, dashes, label, listed, svg
from hyperpelt.report.transfer_table import as_table

ZERO = 1.5  # where no shots stand on the logarithmic axis


def learning_curves(rows: Sequence[Mapping[str, Any]], *, title: str) -> str:
    """The mean score over the number of shots, one line a way of adapting, with the 95 % interval of the mean; as SVG.

    Without shots, ways of adapting do not differ, only where the task starts: those are points of their own.
    """
    labels = list(dict.fromkeys(row["label"] for row in rows))
    with rc_context(STYLE):
        figure = Figure(figsize=(7.5, 3.8), layout="constrained")
        axes = figure.add_subplot()
        for index, name in enumerate(labels):
            _line(axes, sorted((row for row in rows if row["label"] == name), key=lambda row: row["shots"]), index)
        majority = next((row["majority"] for row in rows if row["majority"] is not None), None)
        if majority is not None:
            axes.axhline(majority, color="0.6", linestyle=":", linewidth=1, label="majority")
        _ticks(axes, sorted({row["shots"] for row in rows}))
        label(axes, title, "shots", "score")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
        return svg(figure)


def _line(axes: Axes, rows: Sequence[Mapping[str, Any]], index: int) -> None:
    places = [row["shots"] or ZERO for row in rows]
    means = [row["mean"] for row in rows]
    style = {"color": colour(index), "linestyle": dashes(index), "linewidth": 1.3, "markersize": 4}
    axes.plot(places, means, label=listed(rows[0]["label"]), marker="o" if rows[0]["shots"] else "D", **style)
    known = [
        (place, row["low"], row["high"]) for place, row in zip(places, rows, strict=True) if row["low"] is not None
    ]
    if known:
        known_places, lows, highs = map(list, zip(*known, strict=True))
        axes.fill_between(known_places, lows, highs, color=colour(index), alpha=0.12, linewidth=0)


def _ticks(axes: Axes, shots: Sequence[int]) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([number or ZERO for number in shots]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([str(number) for number in shots])


def read_summary(folder: Path) -> dict[str, Any] | None:
    """summary.json of a transfer's folder; None if there is none. UserError if it is damaged."""
    path = folder / "summary.json"
    if not path.is_file():
        return None
    try:
        content = read_object(path)
        _check(content)
        return content
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise UserError(f"{path} is not what `hyperpelt transfer` writes ({problem}): run it again.") from None


NUMBERS = ("shots", "n", "mean", "sd", "low", "high", "median", "q25", "q75", "majority", "trainable")


def _check(content: Mapping[str, Any]) -> None:
    """Raises KeyError or TypeError unless what a page counts with is numbers: somebody may have edited the file."""
    if not isinstance(content["summary"], list) or not isinstance(content["notes"], list):
        raise TypeError("summary or notes is no list")
    for row in content["summary"]:
        for name in NUMBERS:
            if not isinstance(row[name], (int, float, type(None))):
                raise TypeError(f"{name} is {shown(row[name])}, expected a number")
        for name in ("task", "label"):
            if not isinstance(row[name], str):
                raise TypeError(f"{name} is {shown(row[name])}, expected a text")


def sections(folder: Path) -> Iterator[str]:
    """The part of a report about the transfer in `folder`; nothing if there is none."""
    content = read_summary(folder)
    if content is None or not content["summary"]:
        return
    rows = content["summary"]
    said = {name: escape(str(value)) for name, value in content["settings"].items()}
    yield "<h2>Transfer to tasks that were not trained</h2>"
    yield (
        f'<p class="note">{said["split"]} split; seeds {said["seeds"]}; {said["steps"]} steps of '
        f"{said['batch_size']} rows, loss {said['loss']}, weights of the {said['choose']} step. "
        + " ".join(escape(str(note)) for note in content["notes"])
        + "</p>"
    )
    for task in dict.fromkeys(row["task"] for row in rows):
        yield picture(learning_curves([row for row in rows if row["task"] == task], title=task), f"Curves of {task}.")
    yield table(*as_table(rows))


def write_page(folder: Path) -> Path:
    """report.html of a transfer alone."""
    path = folder / "report.html"
    write_text(path, document("hyperpelt: transfer", "\n".join(sections(folder))))
    return path
