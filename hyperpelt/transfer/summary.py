"""From cells to a table: over the seeds of each (task, shots, way of adapting), and over tasks.

A row holds mean, standard deviation (n - 1), median, quartiles and the 95 % interval of the mean (Student's t). The
rows of `average` first average each seed over all tasks, and are there where every task has the same seeds.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hyperpelt.files import folders
from hyperpelt.files.atomic import write_json, write_text
from hyperpelt.report.transfer_table import markdown

AVERAGE = "average"


def summarise(cells: Sequence[Mapping[str, Any]], majorities: Mapping[str, float]) -> list[dict[str, Any]]:
    """Rows by task, shots and way of adapting, in the order of the cells; the average over tasks comes last."""
    groups: dict[tuple[str, int, str, str], dict[int, Mapping[str, Any]]] = defaultdict(dict)
    for cell in cells:
        groups[cell["task"], cell["shots"], cell["adapt"], cell["start"]][cell["seed"]] = cell
    order = {task: place for place, task in enumerate(dict.fromkeys(cell["task"] for cell in cells))}
    rows = []
    for key, found in sorted(groups.items(), key=lambda item: (order[item[0][0]], item[0][1])):
        scores = {seed: cell["score"] for seed, cell in sorted(found.items()) if cell["score"] is not None}
        if scores:
            trained = next(iter(found.values())).get("trainable")
            rows.append(_row(key, scores, majorities.get(key[0]), trained))
    return [*rows, *_averages(groups, list(order), majorities)]


def _averages(
    groups: Mapping[tuple[str, int, str, str], Mapping[int, Mapping[str, Any]]],
    tasks: Sequence[str],
    majorities: Mapping[str, float],
) -> Iterator[dict[str, Any]]:
    if len(tasks) < 2:
        return
    known = [majorities[task] for task in tasks if task in majorities]
    majority = statistics.fmean(known) if len(known) == len(tasks) else None
    kinds = sorted(dict.fromkeys(key[1:] for key in groups), key=lambda kind: kind[0])
    for shots, adapt, start in kinds:
        each = [groups.get((task, shots, adapt, start), {}) for task in tasks]
        seeds = set.intersection(*(set(found) for found in each))
        scores = {seed: [found[seed]["score"] for found in each] for seed in sorted(seeds)}
        scores = {seed: statistics.fmean(values) for seed, values in scores.items() if None not in values}
        if scores:
            trained = each[0][min(scores)].get("trainable")
            yield _row((AVERAGE, shots, adapt, start), scores, majority, trained)


def _row(
    key: tuple[str, int, str, str], scores: Mapping[int, float], majority: float | None, trained: int | None
) -> dict[str, Any]:
    task, shots, adapt, start = key
    label = f"{adapt} from {start}" if start else adapt
    named = {"task": task, "shots": shots, "adapt": adapt, "start": start, "label": label}
    return {**named, **describe(list(scores.values())), "majority": majority, "trainable": trained}


def describe(values: Sequence[float]) -> dict[str, Any]:
    """n, mean, sd, median, quartiles and the 95 % interval of the mean; what one value cannot tell is None."""
    mean, n = statistics.fmean(values), len(values)
    found: dict[str, Any] = {"n": n, "mean": mean, "median": statistics.median(values)}
    found |= dict.fromkeys(("sd", "q25", "q75", "low", "high"))
    if n > 1:
        from scipy.stats import t

        sd = statistics.stdev(values)
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        half = float(t.ppf(0.975, n - 1)) * sd / n**0.5
        found |= {"sd": sd, "q25": low, "q75": high, "low": mean - half, "high": mean + half}
    return found


def write_summary(folder: Path, content: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> None:
    """summary.json, table.md, a curve for each task, and report.html; cells.jsonl is there already."""
    from hyperpelt.report.transfer import learning_curves, write_page

    folder.mkdir(parents=True, exist_ok=True)
    rows = content["summary"]
    folders.recover(folder, r"(summary\.json|table\.md|report\.html|curves-.*\.svg)")
    write_json(folder / "summary.json", content, ensure_ascii=False)
    write_text(folder / "table.md", markdown(rows))
    for task in dict.fromkeys(row["task"] for row in rows):
        name = task.replace("/", "-")
        curves = learning_curves([row for row in rows if row["task"] == task], title=task)
        write_text(folder / f"curves-{name}.svg", curves)
    write_page(folder)
