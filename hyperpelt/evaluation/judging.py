"""Answers to scores: in the spelling of their gold, beside what the majority answer gets, with what is worth noting.

A generated answer is compared with its gold in one form (`hyperpelt.tasks.spelling`), and so is the majority answer: no
baseline reaches what no model could.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperpelt import metrics
from hyperpelt.backbones import encode_targets
from hyperpelt.backbones.shipped import RUNS
from hyperpelt.errors import UserError
from hyperpelt.evaluation.answers import Answers
from hyperpelt.evaluation.encoded import tokenizer_of
from hyperpelt.evaluation.settings import Settings
from hyperpelt.model import scoring
from hyperpelt.tasks import resolve_root
from hyperpelt.tasks.meanings import about_answers, about_metrics
from hyperpelt.tasks.spelling import Spelling, is_open, lost

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hyperpelt.model.tuned import TunedModel
    from hyperpelt.tasks import Example, Task

# The majority answer is that of at most so many training rows, a fixed random sample: rendering all of a large set
# would take longer than evaluating.
MAJORITY_SAMPLE = 10_000


class Judge:
    """Scores answers to some rows of a task, which a model writes with `tokenizer` (None: it writes none)."""

    def __init__(self, task: Task, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase | None) -> None:
        self.task, self.examples = task, examples
        self.spelling = Spelling(tokenizer, examples) if is_open(task, examples) else None

    def scores(self, predictions: Sequence[Any]) -> dict[str, float]:
        """Each of the task's metrics that can be computed here, in points."""
        predictions = self.compared(predictions)
        groups, labels = [row.group for row in self.examples], [row.label for row in self.examples]
        return metrics.compute(metrics.available(self.task.metrics)[0], predictions, labels, groups=groups)

    def compared(self, predictions: Sequence[Any]) -> list[Any]:
        """The predictions as metrics take them: written answers in the spelling of their gold."""
        if self.spelling is None:
            return list(predictions)
        pairs = zip(predictions, self.examples, strict=True)
        return [self.spelling.respelt(said, row) if row.choices is None else said for said, row in pairs]

    def majority(self, split: str, data_root: str | Path | None) -> dict[str, float]:
        """The scores of always answering the same, as the tokenizer writes it."""
        always = majority_answer(self.task, split, data_root)
        if self.spelling is not None:
            said = self.spelling.said([always])[0]
            return self.scores([said if row.choices is None else always for row in self.examples])
        return self.scores([always] * len(self.examples))


def majority_answer(task: Task, split: str, data_root: str | Path | None) -> Any:
    """What always to answer: the most frequent label of the training split, or its mean if labels are numbers.

    A task without a training split takes `split` itself.
    """
    basis, root = "train" if _has_rows(task, "train", data_root) else split, resolve_root(data_root)
    return _majority(task, basis, root, task.source.state(task.splits.part(basis).split, root))


@cache
def _majority(task: Task, basis: str, data_root: Path | None, state: Hashable) -> Any:
    """Found once for as long as the rows stay as they are (`state` of their source)."""
    labels = [example.label for example in task.examples(basis, data_root=data_root, limit=MAJORITY_SAMPLE)]
    if task.kind == "regression":
        return sum(labels) / len(labels)
    if task.kind == "generation":
        labels = [reference for label in labels for reference in ([label] if isinstance(label, str) else label)]
    return Counter(labels).most_common(1)[0][0]


def _has_rows(task: Task, split: str, data_root: str | Path | None) -> bool:
    try:
        return len(task.rows(split, data_root=data_root)) > 0
    except UserError:
        return False


def num_invalid(predictions: Iterable[Any]) -> int:
    """Generated answers that were no number where one was asked for."""
    return sum(isinstance(value, float) and math.isnan(value) for value in predictions)


def change_since_training(model: TunedModel, task: Task) -> str | None:
    """One sentence for a task that is not the one that the model was trained on; None if it is, or nobody knows."""
    trained = model.task_fingerprints.get(task.name)
    shipped = model.folder is not None and RUNS in model.folder.resolve().parents  # with the tasks as they are now
    if trained is None or trained == task.fingerprint() or shipped:
        return None
    return (
        f"its definition is not the one that the model was trained on (fingerprint {task.fingerprint()}, trained "
        f"on {trained}): rendering, choices, splits or metrics have changed since"
    )


def notes(
    model: TunedModel, task: Task, examples: Sequence[Example], settings: Settings, found: Answers, num_bad: int
) -> Iterator[str]:
    """What a reader of the scores should know, one sentence each."""
    changed = change_since_training(model, task)
    if changed is not None:
        yield changed
    for name, why in metrics.available(task.metrics)[1].items():
        yield f"{name} is not measured: {why}"
    if num_bad:
        yield f"{num_bad} bad images were skipped; their rows were answered without them"
    if found.num_cut:
        yield f"{found.num_cut} of {len(examples)} inputs were cut at {settings.max_source_length} tokens"
    invalid = num_invalid(answer.prediction for answer in found.answers)
    if invalid:
        yield f"{invalid} of {len(examples)} answers are no number; correlations take the mean of the others for them"
    numbered = list(enumerate(examples))
    for finding in (*about_metrics(task), *about_answers(task, "", numbered)):
        if finding.level == "warning":
            yield finding.message
    yield from _unreachable(model, task, examples, settings)
    yield from _shadowing(model, examples, settings)


def _unreachable(model: TunedModel, task: Task, examples: Sequence[Example], settings: Settings) -> Iterator[str]:
    limit = settings.max_target_length
    found = lost(task, examples, tokenizer_of(model), max_target_length=limit)
    for name, (reached, itself) in found.items():
        yield (
            f"{name} cannot exceed {reached:.1f} (the gold answers themselves: {itself:.1f}): this tokenizer cannot "
            f"write or tell apart all of them within {limit} tokens"
        )


def _shadowing(model: TunedModel, examples: Sequence[Example], settings: Settings) -> Iterator[str]:
    if settings.normalisation == "token":
        return
    sets = Counter(example.choices for example in examples if example.choices is not None)
    shadowed = sum(_is_shadowed(model, choices) * count for choices, count in sets.items())
    if shadowed:
        yield (
            f"in {shadowed} of {len(examples)} rows one choice begins with another one, so that it cannot win under "
            f"the length rule {settings.normalisation!r}; 'token' scores the end as well"
        )


def _is_shadowed(model: TunedModel, choices: tuple[str, ...]) -> bool:
    tokenizer = tokenizer_of(model)
    candidates = encode_targets(tokenizer, choices)
    return scoring.shadowed([scoring.scored(ids, tokenizer.eos_token_id, "sum") for ids in candidates])
