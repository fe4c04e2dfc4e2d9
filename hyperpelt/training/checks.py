"""What can be known to go wrong at the end of a run, found before its first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hyperpelt import metrics
from hyperpelt import tasks as registry
from hyperpelt.errors import UserError, unknown
from hyperpelt.evaluation.rehearsal import rehearse
from hyperpelt.evaluation.run import majority_answer
from hyperpelt.evaluation.settings import Settings
from hyperpelt.tasks.measured import of_another_kind

if TYPE_CHECKING:
    from hyperpelt.config import RunConfig
    from hyperpelt.model.tuned import TunedModel
    from hyperpelt.tasks import Task


def evaluated(config: RunConfig, task: Task) -> list[tuple[str, int | None]]:
    """The splits of a task that the run evaluates on, each with how many rows at most; one may be there twice."""
    final = (config.test_split_of(task.name), config.test_limit)
    between = [] if config.eval_steps is None else [(config.eval_split, config.eval_limit)]
    return list(dict.fromkeys([*between, final]))


def splits_evaluated(config: RunConfig, task: Task) -> list[str]:
    """The same splits, each once."""
    return list(dict.fromkeys(split for split, _ in evaluated(config, task)))


def splits_are_there(config: RunConfig, tasks: Sequence[Task]) -> None:
    """Raises UserError for a split that the run needs and that has no rows, and for one of a task that there is not."""
    # A run that tasks are added to may have named its own, whose plugins need not be here.
    for pattern in config.test_split if isinstance(config.test_split, Mapping) and config.from_run is None else ():
        if not registry.names(pattern):
            raise unknown("task in test_split", pattern, [task.name for task in tasks])
    for task in tasks:
        for split in dict.fromkeys(["train", *splits_evaluated(config, task)]):
            others = [name for name in task.splits.names() if name != "train"]
            if split not in task.splits.names() and split != "train" and others:
                own = f"test_split.{task.name}" if len(tasks) > 1 else "test_split"
                key = own if split == config.test_split_of(task.name) else "eval_split"
                raise UserError(f"{task.name} has no split {split!r}: evaluate it on another one, {key}={others[0]}.")
            if not len(task.rows(split, data_root=config.data_root)):
                raise UserError(f"{task.name}: its split {split!r} has no rows.")


def answers_are_there(config: RunConfig, tasks: Sequence[Task]) -> None:
    """Raises UserError for metrics that do not fit (`metrics_fit`), for rows of the evaluations without a gold answer,
    and for a `metric_for_best` that names nothing."""
    for task in tasks:
        metrics_fit(task)
        if config.blind or "image" not in task.modalities:  # others are rendered when their images are seen
            for split, limit in evaluated(config, task):
                for _ in task.examples(split, data_root=config.data_root, limit=limit):
                    pass
    known = {f"{task.name}/{metric}": metric for task in tasks for metric in task.metrics}
    names = ["average", *(task.name for task in tasks), *known]
    if config.metric_for_best not in names:
        raise unknown("metric_for_best", config.metric_for_best, names)
    metric = known.get(config.metric_for_best)
    lacking = metric and metrics.get(metric).lacking()
    if lacking and config.eval_steps is not None:
        raise UserError(f"metric_for_best={config.metric_for_best}: {lacking}")


def worth_saying(config: RunConfig, tasks: Sequence[Task]) -> list[str]:
    """What the tasks' definitions and rows say that their author may not mean, one sentence each."""
    from hyperpelt.tasks.meanings import before_training

    found: list[str] = []
    for task in tasks:
        if config.blind or "image" not in task.modalities:
            splits = ["train", *splits_evaluated(config, task)]
            warnings = [f for f in before_training(task, splits, config.data_root) if f.level == "warning"]
            found += [f"{task.name}: {f'{f.split}: ' if f.split else ''}{f.message}." for f in warnings]
    return found


def evaluations_work(config: RunConfig, tasks: Sequence[Task], model: TunedModel) -> None:
    """Raises UserError for rows that an evaluation of the run could not tokenise or measure, and for training rows that
    the majority answer would be taken of and that do not render."""
    settings = Settings(
        normalisation=config.scoring,
        max_source_length=config.max_source_length,
        max_target_length=config.max_target_length,
    )
    for task in tasks:
        for split, limit in evaluated(config, task):
            rehearse(model, task, split, settings, data_root=config.data_root, limit=limit)
        majority_answer(task, config.test_split_of(task.name), config.data_root)


def metrics_fit(task: Task) -> None:
    """Raises UserError for metrics that are not known, not of the task's kind, or (all of them) not to be had here."""
    for name in task.metrics:
        if problem := of_another_kind(task, metrics.get(name)):
            raise UserError(f"Task {task.name} ({task.origin}): {problem}")
    metrics.require_any(task.metrics, of=f"Task {task.name}")
