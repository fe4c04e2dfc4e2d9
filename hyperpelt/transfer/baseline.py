"""What the majority answer scores on the rows that a transfer measures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hyperpelt.evaluation.judging import Judge
from hyperpelt.evaluation.results import mean

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hyperpelt.tasks import Task


def majority_score(
    task: Task,
    split: str,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    limit: int | None,
    data_root: str | Path | None,
) -> float:
    """The mean of the task's metrics, in points, of the answer as the tokenizer writes it.

    tokenizer: None will do for tasks whose answers are not written.
    """
    examples = list(task.examples(split, data_root=data_root, limit=limit))
    return mean(Judge(task, examples, tokenizer).majority(split, data_root).values())
