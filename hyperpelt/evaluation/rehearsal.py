"""What an evaluation will do to its rows, but for the model's answers: tried before the first step of a run.

    rehearse(model, task, "test", settings, data_root="data", limit=None)

A run that fails after its last step fails where it costs most. So the rows of its evaluations are rendered, tokenised
with their endings and candidates, and measured by every metric with the gold answers in the place of the model's.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from hyperpelt.errors import UserError
from hyperpelt.evaluation.encoded import encode
from hyperpelt.evaluation.settings import Settings
from hyperpelt.tasks.measured import measure_gold
from hyperpelt.tasks.rendering import Naming

if TYPE_CHECKING:
    from hyperpelt.model.tuned import TunedModel
    from hyperpelt.tasks import Example, Task

BATCH = 1024  # rows tokenised together


def rehearse(
    model: TunedModel,
    task: Task,
    split: str,
    settings: Settings,
    *,
    data_root: str | Path | None = None,
    limit: int | None = None,
) -> None:
    """Raises UserError, which names the task, split and row, for what would end an evaluation of `limit` rows."""
    examples = task.examples(split, data_root=data_root, limit=limit)
    seen: list[Example] = []
    rows = zip(examples.numbers, examples, strict=True)
    while batch := list(islice(rows, BATCH)):
        found = [example for _, example in batch]
        try:
            encode(model, task, found, settings)
        except UserError:
            for number, example in batch:  # which of them was it?
                with Naming(task.name, split, number):
                    encode(model, task, [example], settings)
            raise
        seen += [replace(example, images=(), input="", ending="") for example in found]  # metrics need no more
    with Naming(task.name, split):
        measure_gold(task, seen)
