"""What the majority answer scores on the rows that a transfer measures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hyperpelt import metrics
from hyperpelt.evaluation.results import mean
from hyperpelt.evaluation.run import majority_answer

if TYPE_CHECKING:
    from hyperpelt.tasks import Task


def majority_score(task: Task, split: str, *, limit: int | None, data_root: str | Path | None) -> float:
    """The mean of the task's metrics, in points."""
    examples = list(task.examples(split, data_root=data_root, limit=limit))
    always = [majority_answer(task, split, data_root)] * len(examples)
    labels, groups = [example.label for example in examples], [example.group for example in examples]
    return mean(metrics.compute(metrics.available(task.metrics)[0], always, labels, groups=groups).values())
