"""What a study found, as JSON and as Markdown."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from comparing.costs import Cost
from comparing.study import PLACES, WITHOUT_EFFECT, Cell, Study
from hyperpelt.errors import UserError
from hyperpelt.evaluation.results import Results
from hyperpelt.report.run_records import Curve, read_curves

Cells = Mapping[str, Sequence[Mapping[str, Any]]]  # by method, in the order of the table


def summary(
    study: Study, cells: Sequence[Mapping[str, Any]], first: Results, costs: Mapping[str, Cost | None], *, command: str
) -> dict[str, Any]:
    """Everything that the table shows and that repeating it takes.

    - **cells**: what `cell_record` makes of each, in any order; **first**: the results of one that was run here
    - **costs**: by method
    """
    order = {name: index for index, name in enumerate(study.methods)}
    return {
        "title": study.title,
        "command": command,
        "machine": machine(),
        "versions": dict(first.versions),
        "settings": {name: value for name, value in first.settings.items() if name != "training"},
        "cells": sorted(cells, key=lambda cell: (order[cell["method"]], cell["seed"])),
        "costs": {name: vars(counted) for name, counted in costs.items() if counted},
        "majority": {name: dict(task.majority or {}) for name, task in first.tasks.items()},
        "rows": {name: task.rows for name, task in first.tasks.items()},
    }


def earlier(path: Path | None, study: Study, first: Results, new: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The cells of a table that was written before, of the methods that the study still has.

    new: cells that they shall stand beside.

    Raises:
        UserError: no such table; one of other tasks or rows, scored otherwise, or of a backbone of the same name and
            other weights; or one whose further seeds of a method have other settings.
    """
    if path is None:
        return []
    try:
        found = json.loads(path.read_text(encoding="utf8"))
        rows, made = dict(found["rows"]), [cell for cell in found["cells"] if cell["method"] in study.methods]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise UserError(f"--keep: {path} is no table of scripts/compare ({problem}).") from None
    if rows != {name: task.rows for name, task in first.tasks.items()}:
        raise UserError(f"--keep: {path} is of other tasks or test rows than this study: their scores do not compare.")
    measured = {name: first.settings.get(name) for name in found.get("settings", {})}
    if differing := sorted(name for name, value in measured.items() if value != found["settings"][name]):
        raise UserError(f"--keep: {path} was scored otherwise ({', '.join(differing)}): its scores do not compare.")
    before = {cell.get("backbone"): cell.get("weights") for cell in made}
    for cell in new:
        if (was := before.get(cell["backbone"])) not in (None, cell["weights"]):
            raise UserError(
                f"--keep: {path} is of {cell['backbone']} with other weights ({was}, here {cell['weights']}): their "
                "scores do not compare."
            )
    here = {(cell["method"], cell["seed"]): cell for cell in new}
    beside = [cell for cell in made if (cell["method"], cell["seed"]) not in here]
    for name, cells in by_method({"cells": [*beside, *new]}).items():
        _check_alike(path, name, cells)
    return made


def _check_alike(path: Path, name: str, cells: Sequence[Mapping[str, Any]]) -> None:
    """UserError where the seeds of one method, which the table averages, were trained with different settings."""
    each = [dict(pair.split("=", 1) for pair in cell["settings"]) for cell in cells]
    keys = sorted({key for settings in each for key in settings} - {"seed", *PLACES, *WITHOUT_EFFECT})
    if differing := [key for key in keys if len({settings.get(key) for settings in each}) > 1]:
        raise UserError(
            f"--keep: {path} has seeds of {name!r} with other settings than those here ({', '.join(differing)}): they "
            "are not runs of one method. Run all seeds here, or give this one another name in the study."
        )


def cell_record(cell: Cell, results: Results) -> dict[str, Any]:
    """What the table keeps of a run."""
    training = results.settings["training"]
    kept = ("steps", "batch_size", "seconds", "loss", "best_step", "processes", "device", "precision")
    return {
        "method": cell.method,
        "seed": cell.seed,
        "settings": [pair for pair in cell.settings if not pair.startswith("data_root=")],
        "trainable": results.model["trainable"],
        "backbone": cell.resolved["backbone"],
        "weights": cell.weights,
        "training": {name: training.get(name) for name in kept},
        "curve": _curve(cell.folder),
        "average": results.average,
        "tasks": {name: dict(task.metrics) for name, task in results.tasks.items()},
    }


def _curve(folder: Path) -> dict[str, list[float]]:
    """The logged training loss (nats a target token) of a run."""
    curve = read_curves(folder / "tensorboard").get("train/loss", Curve([], []))
    return {"steps": list(curve.steps), "loss": [round(value, 4) for value in curve.values]}


def by_method(found: Mapping[str, Any]) -> Cells:
    """A study's cells by method, in the order of the table."""
    names = dict.fromkeys(cell["method"] for cell in found["cells"])
    return {name: [cell for cell in found["cells"] if cell["method"] == name] for name in names}


def machine() -> str:
    """Processor and number of cores, as far as the system tells."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        processor = names[0] if names else processor
    return f"{processor}, {os.cpu_count()} cores, {platform.system()}"


def markdown(study: Study, found: Mapping[str, Any], pictures: Iterable[str] = ()) -> str:
    """Two tables: averages and trainable counts, then every task; and the files of `pictures`."""
    methods = by_method(found)
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines = [
        f"# {study.title}",
        "",
        "Written by `scripts/compare` from the JSON file beside it; do not edit.",
        "",
        f"    {found['command']}",
        "",
        f"{found['machine']}; {versions}. {computed(methods)}{_backbones(found['cells'])}",
        "",
        *([study.notes.strip(), ""] if study.notes else []),
        "Mean over seeds ± standard deviation (with two seeds or more), test split; `average` is the mean over all "
        "metric columns. Trainable counts are of everything that is trained for all tasks together; `train loss` is a "
        "target token's (a row's under `loss: ranking`), over the last `log_steps` steps; `kept MB`: what forward "
        "keeps for backward, `GFLOP`: a step's products, both counted by `hyperpelt plan` for a batch of full rows.",
        "",
        *_overview(methods, found),
        "",
        *_tasks(methods, found),
        "",
        *(line for name in pictures for line in (f"![{Path(name).stem}]({name})", "")),
        "Settings that differ from the run configuration:",
        "",
        *(f"- {name}: {_differing(cells)}" for name, cells in methods.items()),
    ]
    return "\n".join(lines) + "\n"


def computed(methods: Cells) -> str:
    """In what the runs were computed, and on what: for all of them, or a method at a time where they differ."""
    ways = {name: " and ".join(sorted({_way(cell["training"]) for cell in cells})) for name, cells in methods.items()}
    if len({*ways.values()}) == 1:
        return f"Computed in {next(iter(ways.values()))}."
    return f"Computed in {'; '.join(f'{way} (`{name}`)' for name, way in ways.items())}."


def _backbones(cells: Iterable[Mapping[str, Any]]) -> str:
    names = {cell["backbone"]: cell["weights"] for cell in cells if cell.get("weights")}
    return f" Weights of {', '.join(f'`{name}`: {weights}' for name, weights in names.items())}." if names else ""


def _way(training: Mapping[str, Any]) -> str:
    return f"{training.get('precision')} on {training.get('device')}"


def _overview(methods: Cells, found: Mapping[str, Any]) -> list[str]:
    always = mean(value for task in found["majority"].values() for value in task.values())
    costs = found.get("costs", {})
    rows = [("majority", ["-", "-", f"{always:.2f}", "-", "-", "-", "-", "-"])]
    for name, cells in methods.items():
        seeds = ", ".join(str(cell["seed"]) for cell in cells)
        training = [cell["training"] for cell in cells]
        minutes = mean(one["seconds"] for one in training) / 60
        ends = sorted({one["steps"] for one in training})  # an early stop may end each seed elsewhere
        steps = " to ".join(f"{step:,}" for step in dict.fromkeys((ends[0], ends[-1])))
        work = f"{steps} x {training[0]['batch_size']}"
        values = [
            f"{cells[0]['trainable']:,}",
            seeds,
            spread(cell["average"] for cell in cells),
            spread((one["loss"] for one in training), 3),
            work,
            f"{minutes:.0f}",
            *([f"{costs[name]['kept'] / 1e6:.0f}", f"{costs[name]['flops'] / 1e9:.0f}"] if name in costs else "--"),
        ]
        rows.append((name, values))
    columns = ["trainable", "seeds", "average", "train loss", "steps x rows", "minutes", "kept MB", "GFLOP"]
    return table("method", columns, rows)


def _tasks(methods: Cells, found: Mapping[str, Any]) -> list[str]:
    columns = [(task, metric) for task, metrics in found["majority"].items() for metric in metrics]
    headings = [f"{task.removeprefix('glue/')} {metric}" for task, metric in columns]
    rows = [("majority", [f"{found['majority'][task][metric]:.1f}" for task, metric in columns])]
    for name, cells in methods.items():
        rows.append((name, [spread((c["tasks"][task][metric] for c in cells), 1) for task, metric in columns]))
    return table("method", headings, rows)


def _differing(cells: Sequence[Mapping[str, Any]]) -> str:
    shown = [pair for pair in cells[0]["settings"] if not pair.startswith(("seed=", "data_root="))]
    return ", ".join(f"`{pair}`" for pair in shown)


def spread(values: Iterable[float], digits: int = 2) -> str:
    """`71.25 ± 0.31`; the standard deviation only where there is one."""
    values = list(values)
    shown = f"{mean(values):.{digits}f}"
    return shown + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def table(corner: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    lines = [f"| {corner} | {' | '.join(columns)} |", "|---" + "|---:" * len(columns) + "|"]
    return lines + [f"| {name} | {' | '.join(cells)} |" for name, cells in rows]
