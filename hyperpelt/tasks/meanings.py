"""What a task's definition and its rows say that its author may not mean. Said by `check`, and before a run trains.

two readings    labels that are texts of choices and places of others
scores          a regression's numbers outside of its choices, to the nearest of which every one is moved
one choice      rows with a single candidate, which is always right
metrics         an F1 of one class where there are more than two
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hyperpelt.tasks.findings import Finding, Numbered, about_rows
from hyperpelt.tasks.labels import places_clash
from hyperpelt.tasks.types import Task

OF_TWO = ("f1", "f1a")  # metrics of the choice with index 1 against the other one
LOOKED_AT = 2000  # rows of a split, before a run trains


def before_training(task: Task, splits: Iterable[str], data_root: str | Path | None = None) -> Iterator[Finding]:
    """Warnings about a task and a fixed random sample of its rows. Raises UserError for rows that do not render."""
    yield from about_metrics(task)
    for split in dict.fromkeys(splits):
        examples = task.examples(split, data_root=data_root, limit=LOOKED_AT)
        yield from about_answers(task, split, list(zip(examples.numbers, examples, strict=True)))


def about_metrics(task: Task) -> Iterator[Finding]:
    """F1 is of two classes; of more it sees one and calls all others wrong alike."""
    for metric in [metric for metric in task.metrics if metric in OF_TWO]:
        if task.choices is not None and len(task.choices) != 2:
            message = (
                f"the metric {metric!r} counts the choice {task.choices[1]!r} alone, against the "
                f"{len(task.choices) - 1} others together: for {len(task.choices)} choices take macro_f1"
            )
            yield Finding(level="warning", about="answers", message=message)
        elif task.choices is None and task.kind == "classification":
            message = f"the metric {metric!r} counts each row's second choice, whatever it is: take accuracy"
            yield Finding(level="warning", about="answers", message=message)


def about_answers(task: Task, split: str, rows: Sequence[Numbered]) -> Iterator[Finding]:
    """What stands in a split's answers."""
    yield from _two_readings(task, split, rows)
    yield from _outside(task, split, rows)
    alone = [number for number, example in rows if example.choices is not None and len(set(example.choices)) == 1]
    if alone:
        yield about_rows("warning", "answers", split, alone, "with one choice alone, which is always right")
    silent = [number for number, example in rows if not example.target]
    if silent:
        yield about_rows("note", "answers", split, silent, "whose answer is to write nothing (unanswerable)")


def _two_readings(task: Task, split: str, rows: Sequence[Numbered]) -> Iterator[Finding]:
    if task.kind != "classification":
        return
    found = [
        (number, example.target, example.choices)
        for number, example in rows
        if example.choices is not None
        and places_clash(example.choices)
        and example.target.isdecimal()
        and int(example.target) < len(example.choices)
    ]
    fixed = task.choices is not None
    differing = [(n, target, choices) for n, target, choices in found if choices[int(target)] != target]
    # With fixed choices, one label that is no place shows that none is meant.
    if not differing or (fixed and len(found) < len(rows)):
        return
    _, target, choices = differing[0]
    message = (
        f"can mean two things: the label {target} is read as the choice {target!r}, not as the choice at place "
        f"{target}, {choices[int(target)]!r}. If places are meant, "
    )
    message += "translate them (labels: in YAML)" if fixed else "say so (labels: place in YAML; its text in Python)"
    yield about_rows("warning", "answers", split, [number for number, _, _ in differing], message)


def _outside(task: Task, split: str, rows: Sequence[Numbered]) -> Iterator[Finding]:
    if task.kind != "regression" or task.choices is None:
        return
    values = [float(choice) for choice in task.choices]
    low, high = min(values), max(values)
    step = max(b - a for a, b in zip(sorted(values), sorted(values)[1:], strict=False))
    # What rounds to the first or last choice is not outside.
    far = [(n, e.label) for n, e in rows if not low - step / 2 <= e.label <= high + step / 2]
    if far:
        labels = [label for _, label in far]
        what = (
            f"of {len(rows)} have a score outside of the choices {low:g} to {high:g} (from {min(labels):g} to "
            f"{max(labels):g}): each is trained as the nearest choice. Scale the scores, or give other choices"
        )
        yield about_rows("warning", "answers", split, [number for number, _ in far], what)
