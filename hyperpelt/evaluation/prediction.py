"""A model's answers to rows that nobody has answered: `hyperpelt predict`, and the same in Python.

predict(model, "glue/rte", [{"sentence1": "...", "sentence2": "..."}])
predict(model, "vl/vqav2", [{"question": "What is it?", "image": "photo.jpg"}])
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Unpack

from hyperpelt import tasks as registry
from hyperpelt.data import seeing
from hyperpelt.evaluation.answers import Answer, answer_mixed
from hyperpelt.evaluation.settings import Answering, Settings
from hyperpelt.model import scoring
from hyperpelt.model.eye import eye_of
from hyperpelt.model.tuned import TunedModel
from hyperpelt.tasks import Example, Task


def predict(
    model: TunedModel,
    task: str | Task,
    rows: Iterable[Mapping[str, Any] | Example],
    *,
    allow_urls: bool = False,
    blind: bool = False,
    **how: Unpack[Answering],
) -> list[dict[str, Any]]:
    """Answer rows that need no gold label: the task's columns (a mapping), or rendered examples.

    how: batch_size, max_source_length, ...: see `hyperpelt.evaluation.settings.Settings`.

    Images are paths, bytes or PIL images, addresses only where `allow_urls` says so; blind: they are withheld.

    Each answer is `{"answer": text or number}` (None where a number was asked for and none came, with the `text` that
    did), and where choices were ranked `"probabilities": {choice: p}` in the choices' order; `"cut": True` says that
    the row has more tokens than `max_source_length` and was answered without the rest.

    Raises UserError for a row that lacks a column or has a bad image, naming the row.
    """
    task = registry.get(task) if isinstance(task, str) else task
    examples = [
        row if isinstance(row, Example) else task.example(row, answered=False, number=number)
        for number, row in enumerate(rows)
    ]
    return predict_mixed(model, [task] * len(examples), examples, allow_urls=allow_urls, blind=blind, **how)


def predict_mixed(
    model: TunedModel,
    tasks: Sequence[Task],
    examples: Sequence[Example],
    *,
    allow_urls: bool = False,
    blind: bool = False,
    **how: Unpack[Answering],
) -> list[dict[str, Any]]:
    """`predict` for rendered rows of several tasks, one task a row: batches mix them, answers come in their order."""
    settings = Settings(**dict[str, Any](how))
    for name in dict.fromkeys(task.name for task in tasks):
        model.task_id(name)
    if not examples:
        return []
    eye = None
    if not blind and any(example.images for example in examples):
        eye = eye_of(model, keep=False, allow_urls=allow_urls)
    seen = [
        seeing.seen(task, task.name, [(number, example)], eye, blind=blind)[0]
        for number, (task, example) in enumerate(zip(tasks, examples, strict=True))
    ]
    answers = answer_mixed(model, tasks, seen, settings, eye=eye)
    return [_as_dict(task, example, found) for task, example, found in zip(tasks, seen, answers, strict=True)]


def _as_dict(task: Task, example: Example, found: Answer) -> dict[str, Any]:
    content: dict[str, Any] = {"answer": found.prediction if task.kind == "regression" else found.text}
    if isinstance(found.prediction, float) and math.isnan(found.prediction):  # JSON has no nan
        content = {"answer": None, "text": found.text}
    if found.scores is not None and example.choices is not None:
        scores = dict(zip(example.choices, found.scores, strict=True))  # equal choices are one
        content["probabilities"] = dict(zip(scores, scoring.probabilities(list(scores.values())), strict=True))
    if found.is_cut:
        content["cut"] = True
    return content
