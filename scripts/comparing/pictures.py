"""A study's pictures, drawn from its JSON: what each method reached on each task, and how its loss fell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from comparing.tables import Cells
from hyperpelt.report.plots import bars, curves, trades
from hyperpelt.report.run_records import Curve


def pictures(by_method: Cells, found: Mapping[str, Any]) -> dict[str, str]:
    """Name -> SVG: `tasks`, `loss` where losses were logged, `trade` where there is more than one method. Means over
    seeds."""
    reached = {name: _scores([cell["tasks"] for cell in cells]) for name, cells in by_method.items()}
    drawn = {"tasks": bars({"majority": _scores([found["majority"]]), **reached}, title=found["title"])}
    losses = {name: curve for name, cells in by_method.items() if (curve := _mean_curve(cells))}
    if losses:
        shown = {name: _after_the_start(curve) for name, curve in losses.items()}
        drawn["loss"] = curves(shown, title="training loss, mean over seeds", ylabel="loss")
    if len(by_method) > 1:
        average = {name: mean(cell["average"] for cell in cells) for name, cells in by_method.items()}
        drawn["trade"] = trades(average, _prices(by_method, found), title=found["title"], ylabel="average, points")
    return drawn


def _prices(by_method: Cells, found: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """What each method asks for, by kind; what is not known is left out."""
    costs = found["costs"]
    return {
        "trained values": {name: cells[0]["trainable"] for name, cells in by_method.items()},
        "seconds a step, as run": {
            name: mean(cell["training"]["seconds"] / cell["training"]["steps"] for cell in cells)
            for name, cells in by_method.items()
        },
        "MB kept for backward": {name: cost["kept"] / 1e6 for name, cost in costs.items()},
    }


def _scores(runs: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, float | None]:
    """Each task's mean over its metrics and the runs."""
    return {task: mean(value for run in runs for value in run[task].values()) for task in runs[0]}


def _after_the_start(curve: Curve) -> Curve:
    """Without the first tenth, which falls so far that nothing else could be told apart."""
    left_out = len(curve.steps) // 10
    return Curve(curve.steps[left_out:], curve.values[left_out:])


def _mean_curve(cells: Sequence[Mapping[str, Any]]) -> Curve | None:
    """The mean loss at the steps that every seed has logged; None if there are none."""
    logged = [dict(zip(cell["curve"]["steps"], cell["curve"]["loss"], strict=True)) for cell in cells]
    steps = sorted(set.intersection(*map(set, logged)))
    return Curve(steps, [mean(one[step] for one in logged) for step in steps]) if steps else None
