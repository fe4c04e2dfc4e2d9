"""Where the weights of a task that was not trained start from, by name.

| name | the new task's entries |
|---|---|
| `mean` | the mean of the trained tasks' |
| `nearest` | those of the trained task whose words are nearest (cosine of what the frozen encoder reads, centred) |
| `scored` | those of the trained task under which the shots have the lowest loss (needs shots) |
| `like:TASK` | those of that trained task |
| `described` | the embedding that the description map computes from the task's words |

An entry is an embedding of the hypernetwork, and a set of tensors where a method has per-task tensors besides; the map
of `described` makes embeddings alone, so such tensors then start as their mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hyperpelt import tasks as registry
from hyperpelt.data import Batch
from hyperpelt.errors import UserError, unknown
from hyperpelt.model.descriptions import read_tasks, tell_tasks
from hyperpelt.model.inputs import inputs_of
from hyperpelt.model.tuned import TunedModel
from hyperpelt.tasks import Task

STARTS = ("mean", "nearest", "scored", "described")
LIKE = "like:"


@dataclass(frozen=True)
class Start:
    """Where a task started: the rule's name, the one task that was taken (if any), and its figure for every task."""

    rule: str
    task: str | None = None
    figures: Mapping[str, float] | None = None


def check_start(name: str) -> str:
    """`name` if it is a known rule; UserError otherwise."""
    if name not in STARTS and not name.startswith(LIKE):
        raise unknown("start of a new task", name, [*STARTS, f"{LIKE}TASK"])
    return name


def start_task(
    model: TunedModel,
    task: Task,
    rule: str,
    *,
    among: Sequence[str] | None = None,
    shots: Sequence[Batch] = (),
    max_source_length: int = 128,
    data_root: str | Path | None = None,
) -> Start:
    """Make `task`, which the model knows already as an added one, start as `rule` says.

    among: the trained tasks; None: all that the model knows but this one. shots: batches of its rows, for `scored`.
    Raises UserError for an unknown rule, and for one that the model or the shots do not allow.
    """
    check_start(rule)
    others = list(among) if among is not None else [name for name in model.tasks if name != task.name]
    mean = {name: 1 / len(others) for name in others}
    reading: dict[str, Any] = {"max_source_length": max_source_length, "data_root": data_root}
    if rule == "mean":
        model.start_task(task.name, mean)
        return Start(rule)
    if rule == "described":
        model.start_task(task.name, mean)
        _tell(model, task, **reading)
        model.start_task_described(task.name)
        return Start(rule)
    if rule == "nearest":
        figures = similarity(model, task, others, **reading)
        chosen = max(figures, key=figures.__getitem__)
    elif rule == "scored":
        figures = losses(model, others, shots)
        chosen = min(figures, key=figures.__getitem__)
    else:
        figures, chosen = None, rule.removeprefix(LIKE)
        if chosen not in others:
            raise unknown("trained task to start like", chosen, others)
    model.start_task(task.name, {chosen: 1.0})
    return Start(rule, chosen, figures)


def _tell(model: TunedModel, task: Task, **reading: Any) -> None:
    if not model.described():
        raise UserError(
            f"Method {model.method.name!r} was trained without a map from words to embeddings, so no task can start as "
            "'described': train with method.description_dropout=0.3, or choose mean, nearest or like:TASK."
        )
    index = model.task_id(task.name)
    # One whose tasks are described was told those of a mixture, so far.
    if not all(network.words.vectors[index].any() and not network.words.alone for network in model.described()):
        tell_tasks(model, [task], **reading)


def similarity(model: TunedModel, task: Task, others: Sequence[str], **reading: Any) -> dict[str, float]:
    """Cosine of the task's words with those of each other task, after the mean of those others is taken off."""
    vectors = _known_vectors(model, others, **reading)
    new = read_tasks(model.backbone, model.need_tokenizer(), [task], **reading)[task.name]
    both = torch.stack([_both(vectors[name]) for name in others])
    centre = both.mean(dim=0) if len(others) > 1 else torch.zeros_like(both[0])
    found = torch.cosine_similarity(both - centre, (_both(new) - centre)[None])
    return dict(zip(others, found.tolist(), strict=True))


def _both(vectors: Float[Tensor, "K d"]) -> Float[Tensor, " d2"]:
    return torch.cat([vectors[0], vectors[1:].mean(dim=0)]).double()


def _known_vectors(model: TunedModel, names: Sequence[str], **reading: Any) -> dict[str, Float[Tensor, "K d"]]:
    """Those that the checkpoint holds; of a model that holds none, read anew from the tasks' definitions."""
    for network in [one for one in model.described() if not one.words.alone]:
        return {name: network.words.vectors[model.task_id(name)].cpu() for name in names}
    return read_tasks(model.backbone, model.need_tokenizer(), [registry.get(name) for name in names], **reading)


@torch.no_grad()
def losses(model: TunedModel, names: Sequence[str], shots: Sequence[Batch]) -> dict[str, float]:
    """Loss a target token of the shots under the weights of each task."""
    if not shots:
        raise UserError("A task can start as 'scored' from shots alone; without shots take nearest, mean or described.")
    mode = model.training
    model.eval()
    found = {}
    for name in names:
        total, tokens = 0.0, 0
        for batch in shots:
            inputs = inputs_of(batch, model.device)
            inputs["task_ids"] = torch.full_like(batch["task_ids"], model.task_id(name))
            inputs.pop("wrong", None)
            output = model(**inputs)
            total += float(output.row_loss.sum())
            tokens += int(output.row_tokens.sum())
        found[name] = total / tokens
    model.train(mode)
    return found
