"""The HTML page: sections, tables and style."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from hyperpelt.backbones.shipped import RUNS, place_for
from hyperpelt.config.paths import place
from hyperpelt.errors import UserError, counted
from hyperpelt.evaluation.results import Results, joined, mean
from hyperpelt.files.atomic import write_text
from hyperpelt.report.differences import unlike
from hyperpelt.report.html import anchor, document, picture, table
from hyperpelt.report.rows import sections as rows_sections
from hyperpelt.report.run_records import Curve, RunRecord, read_runs
from hyperpelt.report.transfer import sections as transfer_sections


def write_report(runs: Sequence[str | Path], output: str | Path) -> Path:
    """Write the page about `runs` (run folders, or folders of them) and return its path.

    Raises UserError where there is no run, a file of it is damaged, or `output` is a file that is no page.
    """
    output = place(output)
    if output.is_file() and not output.read_bytes()[:100].lower().lstrip().startswith((b"<!doctype html", b"<html")):
        raise UserError(f"{output} is no HTML page, and a report would replace it: name another file.")
    page = render(read_runs(runs))
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text(output, page)
    return output


def render(runs: Sequence[RunRecord]) -> str:
    """The page as HTML."""
    title = f"hyperpelt: {runs[0].name}" if len(runs) == 1 else f"hyperpelt: {len(runs)} runs"
    each = [part for run in runs for part in _details(run, runs)]
    body = "\n".join([*_contents(runs), *_overview(runs), *_comparison(runs), *_courses(runs), *each])
    return document(title, body)


# Sections ------------------------------------------------------------------------------------------------------------


def _contents(runs: Sequence[RunRecord]) -> Iterator[str]:
    """Where each run begins, for a page of several."""
    if len(runs) > 1:
        links = (f'<a href="#{anchor(run.name)}">{escape(run.name)}</a>' for run in runs)
        yield f'<p class="note contents">{" · ".join(links)}</p>'


def _overview(runs: Sequence[RunRecord]) -> Iterator[str]:
    rows = []
    for run in runs:
        model, how = (run.results.model, run.training) if run.results else (run.so_far, run.so_far)
        average = f"{run.results.average:.2f}" if run.results else "not finished"
        cells = [model.get("method"), model.get("backbone"), model.get("trainable"), how.get("seed")]
        cells += [how.get("steps"), how.get("tokens"), _duration(how.get("seconds")), average]
        rows.append([run.name, *map(_cell, cells)])
    heads = ["run", "method", "backbone", "trained values", "seed", "steps", "tokens", "training time", "average"]
    yield table(heads, rows)


def _comparison(runs: Sequence[RunRecord]) -> Iterator[str]:
    """Task by task, methods side by side."""
    groups = _grouped(runs)
    if not groups:
        return
    from hyperpelt.report.plots import bars

    scores = {label: _task_scores(results) for label, results in groups.items()}
    baseline = _baseline([results for group in groups.values() for results in group])
    shown = {"majority": baseline, **scores} if baseline else scores
    if len(groups) > 1:
        yield "<h2>Comparison</h2>"
        yield _comparison_table(groups, shown)
        yield from unlike(runs)
    yield picture(bars(shown, title="mean metric of each task"), "Bar chart of each task's mean metric.")


def _courses(runs: Sequence[RunRecord]) -> Iterator[str]:
    """The loss and the average of several runs in one picture each."""
    from hyperpelt.report.plots import curves

    for tag, title, unit in (
        ("train/loss", "training loss of all runs", "loss"),
        ("eval/average", "average while training, of all runs", "points"),
    ):
        found = {run.name: run.curves[tag] for run in runs if tag in run.curves}
        if len(found) > 1:
            yield picture(curves(found, title=title, ylabel=unit), title)


def _comparison_table(groups: Mapping[str, list[Results]], shown: Mapping[str, Mapping[str, float | None]]) -> str:
    tasks = list(dict.fromkeys(task for scores in shown.values() for task in scores))
    rows = []
    for task in tasks:
        row = [task]
        for label, scores in shown.items():
            found = [r.tasks[task].score for r in groups.get(label, ()) if task in r.tasks] or [scores.get(task)]
            row.append(_spread(found))
        rows.append(row)
    common = set.intersection(*({*results.tasks} for group in groups.values() for results in group))
    alike = all(len(results.tasks) == len(common) for group in groups.values() for results in group)
    averages = [
        _spread([results.average for results in groups[label]]) if label in groups and alike else "" for label in shown
    ]
    heads = [label if len(groups.get(label, [1])) == 1 else f"{label} (n={len(groups[label])})" for label in shown]
    # Averages over different tasks would be compared by whoever sees them beside each other.
    total = ["average of all metrics" if alike else "no average: the runs have other tasks", *averages]
    return table(["task", *heads], rows, total=total)


def _details(run: RunRecord, runs: Sequence[RunRecord]) -> Iterator[str]:
    if len(runs) > 1:
        yield f'<h2 id="{anchor(run.name)}">{escape(run.name)}</h2>'
    if run.results is not None:
        yield _results_table(run.results)
        yield from (f'<p class="note">{escape(text)}</p>' for text in _notes(run.results))
    yield from _curves(run.curves)
    yield from rows_sections(run.results)
    yield from _task_map(run.training.get("task_map"))
    yield from transfer_sections(_transfer_of(run.folder))
    if run.settings:
        yield f"<details><summary>Settings (run.yaml)</summary><pre>{escape(run.settings)}</pre></details>"


def _task_map(found: Mapping[str, Any] | None) -> Iterator[str]:
    """How near the tasks are to each other by the tensors that are made for them, those alike beside each other."""
    if not found:
        return
    from hyperpelt.report.plots import heatmap

    cosines = np.array(found["cosines"])
    order = _alike_together(cosines)
    names = [found["tasks"][place] for place in order]
    yield picture(heatmap(cosines[np.ix_(order, order)], names, title="task map: generated weights"), "Task map.")
    far = sorted(zip(found["tasks"], found["apart"], strict=True), key=lambda pair: -pair[1])
    told = ", ".join(f"{name} {100 * apart:.1f} %" for name, apart in far[:5])
    yield (
        '<p class="note">Cosines of what is made for each task beside the mean of all tasks. How far a task lies from '
        f"that mean, of its length; farthest: {escape(told)}.</p>"
    )


def _alike_together(cosines: Float[np.ndarray, "T T"]) -> list[int]:
    """An order of the tasks in which those that are alike stand beside each other (average linkage)."""
    if len(cosines) < 3:
        return list(range(len(cosines)))
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    distances = np.clip(1 - (cosines + cosines.T) / 2, 0, None)
    np.fill_diagonal(distances, 0)
    return [int(place) for place in leaves_list(linkage(squareform(distances), "average", optimal_ordering=True))]


def _transfer_of(folder: Path) -> Path:
    """Where `hyperpelt transfer` writes by default; what is made of a shipped run does not lie inside the library."""
    shipped = folder.resolve().parent == RUNS.resolve()
    return (place_for(folder.name) if shipped else folder) / "transfer"


def _results_table(results: Results) -> str:
    columns = [("majority", "majority"), ("frozen backbone", "frozen"), (str(results.model.get("method")), "metrics")]
    columns = [(head, of) for head, of in columns if any(getattr(task, of) for task in results.tasks.values())]
    rows = [
        [name, " / ".join(task.metrics), *(joined(getattr(task, of)) for _, of in columns), f"{task.rows:,}"]
        for name, task in results.tasks.items()
    ]
    found = [results.averages(of) for _, of in columns]
    averages = ["-" if average is None else f"{average['average']:.2f}" for average in found]
    total = ["average", counted(results.num_columns, "column"), *averages, ""]
    return table(["task", "metric", *(head for head, _ in columns), "rows"], rows, total=total)


def _notes(results: Results) -> Iterator[str]:
    how = results.settings
    yield (
        f"{how.get('split')} split; choices ranked by the length rule '{how.get('normalisation')}'; numbers answered "
        f"by '{how.get('regression')}'; " + ", ".join(" ".join(pair) for pair in results.versions.items()) + "."
    )
    for name, task in results.tasks.items():
        yield from (f"{name}: {note}" for note in task.notes)


def _curves(curves: Mapping[str, Curve]) -> Iterator[str]:
    from hyperpelt.report.plots import MOST_LINES, small_multiples
    from hyperpelt.report.plots import curves as plot

    def below(prefix: str) -> dict[str, Curve]:
        return {tag.removeprefix(prefix): curve for tag, curve in curves.items() if tag.startswith(prefix)}

    loss = {name: curves[tag] for name, tag in (("all tasks", "train/loss"),) if tag in curves}
    for found, title, unit in (
        ({**loss, **below("train/loss/")} if loss else {}, "training loss", "loss"),
        (below("eval/"), "evaluation while training", "points"),
    ):
        draw = plot if len(found) <= MOST_LINES else small_multiples
        yield from [picture(draw(found, title=title, ylabel=unit), title)] if found else []
    small = (("train/learning_rate", "learning rate"), ("train/grad_norm", "gradient norm, before clipping"))
    yield from (picture(plot({name: curves[tag]}, title=name, ylabel=""), name) for tag, name in small if tag in curves)


# Figures and HTML ----------------------------------------------------------------------------------------------------


def _grouped(runs: Sequence[RunRecord]) -> dict[str, list[Results]]:
    """Finished runs by method, and backbone where it differs; runs that differ in their seed alone stand together.

    Runs of one method that differ in anything else (settings, tasks, what was measured) stand by their own names.
    """
    done = [(run, run.results) for run in runs if run.results is not None]
    several = len({results.model.get("backbone") for _, results in done}) > 1
    groups: dict[str, list[tuple[RunRecord, Results]]] = {}
    for run, results in done:
        label = f"{run.method} on {results.model.get('backbone')}" if several else run.method
        groups.setdefault(label, []).append((run, results))
    found: dict[str, list[Results]] = {}
    for label, members in groups.items():
        seeds = [run.training.get("seed") for run, _ in members]
        if len(set(seeds)) == len(seeds) and all(_made_alike(members[0], other) for other in members[1:]):
            found[label] = [results for _, results in members]
        else:
            names = {run.name: f"{run.name} ({label})" if run.name in groups else run.name for run, _ in members}
            found |= {names[run.name]: [results] for run, results in members}
    return found


def _made_alike(one: tuple[RunRecord, Results], other: tuple[RunRecord, Results]) -> bool:
    """Whether two runs are repetitions: the same settings, tasks and measuring."""

    def known_by(run: RunRecord, results: Results) -> tuple[object, ...]:
        measured = [results.settings.get(name) for name in ("split", "limit", "normalisation", "regression")]
        return measured, list(results.tasks), run.comparable_settings

    return known_by(*one) == known_by(*other)


def _task_scores(results: Sequence[Results]) -> dict[str, float | None]:
    tasks = dict.fromkeys(task for one in results for task in one.tasks)
    return {task: mean(one.tasks[task].score for one in results if task in one.tasks) for task in tasks}


def _baseline(results: Iterable[Results]) -> dict[str, float | None]:
    return {name: mean(task.majority.values()) for one in results for name, task in one.tasks.items() if task.majority}


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    deviation = f" ± {statistics.stdev(known):.2f}" if len(known) > 1 else ""
    return f"{mean(known):.2f}{deviation}"


def _duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else str(value)
