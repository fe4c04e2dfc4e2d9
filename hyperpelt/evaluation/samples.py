"""What a model answered row by row: as JSON lines, as a table of confusions, and the rows that it gets most wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from hyperpelt import metrics
from hyperpelt.errors import UserError
from hyperpelt.evaluation.answers import Answer
from hyperpelt.files.atomic import finite, replacing
from hyperpelt.model import scoring

if TYPE_CHECKING:
    from hyperpelt.tasks import Example, Task

MOST_CHOICES = 20  # of a table of confusions
NUM_WORST = 5
SHOWN = 400  # characters of an input in the list of worst rows


class SampleLog:
    """JSON lines, one a row, in a file; `write` adds those of a task."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(
        self,
        task: Task,
        split: str,
        template: str | None,
        numbers: Sequence[int],
        rows: Sequence[tuple[Example, Answer]],
    ) -> None:
        """Add the rows of a task, with their numbers in its split."""
        named = {} if template is None else {"template": template}
        for number, (example, answer) in zip(numbers, rows, strict=True):
            content = {"task": task.name, **named, "split": split, "row": number, **_as_dict(task, example, answer)}
            self._stream.write(json.dumps(finite(content), ensure_ascii=False, default=str) + "\n")
        self._stream.flush()


@contextmanager
def sample_log(path: Path | None) -> Iterator[SampleLog | None]:
    """A log in a file that is there when all of it is; None without one. UserError where it cannot be written."""
    if path is None:
        yield None
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as new, new.open("w", encoding="utf8") as stream:
            yield SampleLog(stream)
    except OSError as error:
        if error.filename is None or Path(error.filename).parent != path.parent:  # not of this file
            raise
        raise UserError(f"Cannot write the rows to {path}: {error.strerror}.") from None


def _as_dict(task: Task, example: Example, answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = {
        "input": example.input,
        "target": example.target,
        "label": example.label,
        "answer": answer.text,
        "prediction": answer.prediction,
    }
    if answer.scores is not None and example.choices is not None:
        found["scores"] = dict(zip(example.choices, answer.scores, strict=True))
    row_wise = [name for name in metrics.available(task.metrics)[0] if metrics.get(name).row_wise]
    return found | {"metrics": {name: _of_row(name, example, answer) for name in row_wise}}


def _of_row(metric: str, example: Example, answer: Answer) -> float:
    return metrics.get(metric).function([answer.prediction], [example.label], [example.group])


def confusion(task: Task, rows: Sequence[tuple[Example, Answer]]) -> dict[str, Any] | None:
    """How often each choice was answered where each was right: `{"choices": [...], "counts": [[...]]}`, gold by answer.

    None for a task without fixed choices, or with too many to look at.
    """
    choices = task.choices
    if task.kind != "classification" or choices is None or len(choices) > MOST_CHOICES:
        return None
    counts = [[0] * len(choices) for _ in choices]
    for example, answer in rows:
        if isinstance(example.label, int) and isinstance(answer.prediction, int):
            counts[example.label][answer.prediction] += 1
    return {"choices": list(choices), "counts": counts}


def worst(task: Task, numbers: Sequence[int], rows: Sequence[tuple[Example, Answer]]) -> list[dict[str, Any]]:
    """The wrong rows of which the model is surest; for numbers, those farthest off; for open answers, the poorest.

    `loss` is what they are sorted by: the nats that the right choice lacks, the distance, or the points short of 100.
    """
    losses = [_loss(task, example, answer) for example, answer in rows]
    order = sorted((place for place, loss in enumerate(losses) if loss > 0), key=lambda place: -losses[place])
    return [_shown(numbers[place], *rows[place], losses[place]) for place in order[:NUM_WORST]]


def _loss(task: Task, example: Example, answer: Answer) -> float:
    if task.kind == "regression":
        distance = abs(float(answer.prediction) - float(example.label))
        return distance if distance == distance else float("inf")  # no number at all
    if task.kind == "classification" and answer.scores is not None and isinstance(example.label, int):
        return max(answer.scores) - answer.scores[example.label]
    row_wise = [name for name in metrics.available(task.metrics)[0] if metrics.get(name).row_wise]
    return 100.0 - _of_row(row_wise[0], example, answer) if row_wise else 0.0


def _shown(number: int, example: Example, answer: Answer, loss: float) -> dict[str, Any]:
    gold: Any = example.label if isinstance(example.label, tuple) else example.target
    text = example.input if len(example.input) <= SHOWN else f"{example.input[:SHOWN]} ..."
    found: dict[str, Any] = {"row": number, "input": text, "gold": gold, "answer": answer.text, "loss": loss}
    if answer.scores is not None and example.choices is not None:
        chances: Mapping[str, float] = dict(zip(example.choices, scoring.probabilities(answer.scores), strict=True))
        found["probability"] = chances.get(answer.text)
    return found
