"""One task measured: answers to its rows, scores of the answers, and what is worth knowing beside them.

A task with several templates is measured with each: its score is their mean, and how far they lie apart is kept.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperpelt.data import seeing
from hyperpelt.evaluation import intervals
from hyperpelt.evaluation.answers import Answer, answer
from hyperpelt.evaluation.encoded import tokenizer_of
from hyperpelt.evaluation.intervals import Draws
from hyperpelt.evaluation.judging import Judge, notes, num_invalid
from hyperpelt.evaluation.results import TaskResult, mean
from hyperpelt.evaluation.samples import SampleLog, confusion, worst
from hyperpelt.evaluation.settings import Settings
from hyperpelt.model.tuned import TunedModel
from hyperpelt.tasks import Example, Task

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """How tasks are measured; `evaluate` describes the fields. resamples: 0, or so many for intervals."""

    settings: Settings
    split: str
    data_root: str | Path | None = None
    limit: int | None = None
    majority: bool = True
    blind: bool = False
    eye: seeing.Eye | None = None
    resamples: int = 0
    seed: int = 0
    log: SampleLog | None = None
    accelerator: Accelerator | None = None
    progress: bool = False

    def on(self, split: str) -> Measuring:
        """The same, of another split."""
        return replace(self, split=split)

    def task(self, model: TunedModel, task: Task) -> tuple[TaskResult, Draws]:
        """The scores of a task, and for each metric its bootstrap draws (nothing without `resamples`)."""
        start = time.perf_counter()
        each = [self._rendered(model, task, variant, template) for template, variant in task.variants()]
        first = each[0]
        scores = {name: mean(one.scores[name] for one in each) for name in first.scores}
        draws = intervals.mean_draws([one.draws for one in each]) if self.resamples else {}
        result = TaskResult(
            kind=task.kind,
            rows=len(first.pairs),
            metrics=scores,
            majority=first.judge.majority(self.split, self.data_root) if self.majority else None,
            invalid=sum(one.num_invalid for one in each),
            num_cut=sum(one.num_cut for one in each),
            num_bad_images=first.num_bad,
            seconds=time.perf_counter() - start,
            notes=tuple(dict.fromkeys(note for one in each for note in one.notes)),
            intervals={name: intervals.interval(values) for name, values in draws.items()} or None,
            templates={one.template: one.scores for one in each if one.template is not None} or None,
            confusion=confusion(first.task, first.pairs),
            worst=tuple(worst(first.task, first.numbers, first.pairs)),
        )
        return result, draws

    def alone(self) -> Measuring:
        """The same for a backbone without its method: its scores and nothing else."""
        return replace(self, majority=False, eye=None, blind=True, resamples=0, log=None)

    def _rendered(self, model: TunedModel, whole: Task, task: Task, template: str | None) -> _Measured:
        """The whole task with one rendering of its rows."""
        rows = task.examples(self.split, data_root=self.data_root, limit=self.limit)
        eye, bad = self.eye, 0 if self.eye is None else self.eye.num_bad
        where = f"{task.name} {self.split}"
        # One process encodes what is new.
        with self.accelerator.main_process_first() if self.accelerator else nullcontext():
            examples = seeing.seen(task, where, zip(rows.numbers, rows, strict=True), eye, blind=self.blind)
        num_bad = 0 if eye is None else eye.num_bad - bad
        how: dict[str, Any] = {"eye": eye, "accelerator": self.accelerator, "progress": self.progress}
        found = answer(model, task, examples, self.settings, **how)
        judge = Judge(task, examples, tokenizer_of(model))
        said = [answer.prediction for answer in found.answers]
        predictions, numbers = judge.compared(said), list(rows.numbers)
        judged = [replace(one, prediction=value) for one, value in zip(found.answers, predictions, strict=True)]
        pairs = list(zip(examples, judged, strict=True))
        if self.log is not None:
            self.log.write(task, self.split, template, numbers, pairs)
        draws: Draws = {}
        if self.resamples:
            labels, groups = [example.label for example in examples], [example.group for example in examples]
            sampling: dict[str, Any] = {
                "seed": self.seed,
                "name": task.name,
                "resamples": self.resamples,
                "progress": self.progress,
            }
            draws = intervals.resampled(task.metrics, predictions, labels, groups, **sampling)
        return _Measured(
            task=task,
            template=template,
            judge=judge,
            numbers=numbers,
            pairs=pairs,
            num_cut=found.num_cut,
            scores=judge.scores(said),
            draws=draws,
            num_bad=num_bad,
            num_invalid=num_invalid(said),
            notes=tuple(notes(model, whole, examples, self.settings, found, num_bad)),
        )


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """A task under one rendering."""

    task: Task
    template: str | None
    judge: Judge
    numbers: list[int]
    pairs: list[tuple[Example, Answer]]
    num_cut: int
    scores: dict[str, float]
    draws: Draws
    num_bad: int
    num_invalid: int
    notes: tuple[str, ...]
