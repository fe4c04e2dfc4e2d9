"""How well a model does its tasks, beside what it takes to beat: the majority answer and the frozen backbone.

    results = evaluate(model, ["glue/rte", "glue/stsb"], split="test", data_root="data")
    print(results.average); results.as_dict()                          # what results.json holds
    predict(model, "glue/rte", [{"sentence1": "...", "sentence2": "..."}])

Classification ranks the choices' log-likelihoods, regression takes the probability-weighted mean of its choices'
numbers (or the best one's number), open answers are generated, greedily or with the task's beams. Images are seen once
and kept as features (`hyperpelt.vision`). Under `accelerate launch` every process answers
its share of the rows and all get the same results, equal to those of one process.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from hyperpelt import metrics
from hyperpelt import tasks as registry
from hyperpelt.data import seeing
from hyperpelt.errors import UserError
from hyperpelt.evaluation.answers import answer, tokenizer_of
from hyperpelt.evaluation.judging import Judge, majority_answer, notes, num_invalid
from hyperpelt.evaluation.prediction import predict
from hyperpelt.evaluation.results import Results, TaskResult
from hyperpelt.evaluation.settings import Answering, Settings
from hyperpelt.model.eye import eye_of
from hyperpelt.model.tuned import TunedModel
from hyperpelt.tasks import Task

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["describe", "evaluate", "majority_answer", "predict", "resolve", "versions", "without_method"]
TOLD = ("normalisation", "regression", "max_source_length", "max_target_length")  # with the results
VERSIONED = ("hyperpelt", "torch", "transformers", "tokenizers", "datasets", "scikit-learn", "scipy")


def evaluate(
    model: TunedModel,
    tasks: str | Task | Iterable[str | Task],
    *,
    split: str = "test",
    data_root: str | Path | None = None,
    limit: int | None = None,
    majority: bool = True,
    frozen: bool = False,
    features_dir: str | Path | None = None,
    on_bad_image: str = "error",
    blind: bool = False,
    accelerator: Accelerator | None = None,
    progress: bool = True,
    **how: Unpack[Answering],
) -> Results:
    """Measure `model` on a split of each task.

    Args:
        tasks: names, wildcards, mixtures or Task objects; wildcards look among the model's own tasks.
        limit: at most so many rows of each task, a fixed random sample.
        majority: also score the most frequent answer of the training split.
        frozen: also score the backbone without the method (and so without images), which takes as long again.
        features_dir: folder of the feature store. on_bad_image: `error`, or `skip`: a row is answered without an image
            that cannot be used, and these are counted. blind: withhold the images.
        accelerator: shares the rows out among its processes.
        how: normalisation, regression, batch_size, max_source_length, max_target_length, num_beams: see
            `hyperpelt.evaluation.settings.Settings`.

    Raises:
        UserError: for an unknown task, metric, split or rule, and for rows that do not render.
    """
    settings = Settings(**dict[str, Any](how))
    chosen = resolve(tasks, among=model.tasks)
    _check(model, chosen)
    check_lengths(model, settings.max_source_length, settings.max_target_length)
    measure = partial(
        _measure,
        settings=settings,
        split=split,
        data_root=data_root,
        limit=limit,
        accelerator=accelerator,
        progress=progress,
    )
    eye = None if blind else _eye(model, chosen, features_dir, on_bad_image)
    found = {task.name: measure(model, task, majority=majority, eye=eye, blind=blind) for task in chosen}
    if frozen:
        bare = without_method(model)
        for task in chosen:
            scores = measure(bare, task, majority=False, eye=None, blind=True).metrics
            found[task.name] = replace(found[task.name], frozen=scores)
    told: dict[str, Any] = {"split": split, "limit": limit, **{name: getattr(settings, name) for name in TOLD}}
    if _see(chosen):
        told |= {"blind": blind, "on_bad_image": on_bad_image, "num_beams": settings.num_beams}
    return Results(tasks=found, settings=told, model=describe(model), versions=versions())


def _see(tasks: Iterable[Task]) -> bool:
    return any("image" in task.modalities for task in tasks)


def _eye(
    model: TunedModel, tasks: Sequence[Task], features_dir: str | Path | None, on_bad_image: str
) -> seeing.Eye | None:
    if not _see(tasks):
        return None
    return eye_of(model, features_dir=features_dir, on_bad_image=on_bad_image)


def _check(model: TunedModel, tasks: Sequence[Task]) -> None:
    """An unknown task or metric is reported before hours of work."""
    for task in tasks:
        model.task_id(task.name)
        metrics.require_any(task.metrics, of=f"Task {task.name}")


def check_lengths(model: TunedModel, max_source_length: int, max_target_length: int) -> None:
    """Raises UserError where the backbone has learnt fewer positions than inputs or answers may have tokens."""
    limit = getattr(model.backbone.config, "max_position_embeddings", None)
    for name, length in (("max_source_length", max_source_length), ("max_target_length", max_target_length)):
        if limit is not None and length > limit:
            raise UserError(
                f"{name}={length}: {model.backbone_name or 'this backbone'} has {limit} positions. Lower it."
            )


def resolve(tasks: str | Task | Iterable[str | Task], *, among: Sequence[str] | None = None) -> list[Task]:
    """Tasks by name, wildcard or mixture, or as they are; each once."""
    wanted = [tasks] if isinstance(tasks, str | Task) else list(tasks)
    names = [task for task in wanted if isinstance(task, str)]
    found = registry.select(names, among=among) if names else []
    return list(dict.fromkeys([*found, *(task for task in wanted if isinstance(task, Task))]))


def without_method(model: TunedModel) -> TunedModel:
    """The same frozen backbone with nothing attached, for the frozen row; it shares the backbone's tensors.

    A method that trains the backbone has changed its copy, so the backbone is loaded anew by its name.
    """
    backbone = model.backbone
    if model.unfrozen:
        from hyperpelt.backbones import load_backbone
        from hyperpelt.backbones.moving import moved

        backbone = moved(load_backbone(model.backbone_name, dtype=model.dtype), model.device)
    return TunedModel.build(backbone, method="frozen", tasks=model.tasks, tokenizer=model.tokenizer)


def _measure(
    model: TunedModel,
    task: Task,
    *,
    settings: Settings,
    split: str,
    data_root: str | Path | None,
    limit: int | None,
    majority: bool,
    eye: seeing.Eye | None,
    blind: bool,
    accelerator: Accelerator | None,
    progress: bool,
) -> TaskResult:
    start = time.perf_counter()
    rows = task.examples(split, data_root=data_root, limit=limit)
    bad = 0 if eye is None else eye.num_bad
    with accelerator.main_process_first() if accelerator else nullcontext():  # one process encodes what is new
        examples = seeing.seen(task, f"{task.name} {split}", zip(rows.numbers, rows, strict=True), eye, blind=blind)
    num_bad = 0 if eye is None else eye.num_bad - bad
    found = answer(model, task, examples, settings, eye=eye, accelerator=accelerator, progress=progress)
    predictions = [answer.prediction for answer in found.answers]
    judge = Judge(task, examples, tokenizer_of(model))
    return TaskResult(
        kind=task.kind,
        rows=len(examples),
        metrics=judge.scores(predictions),
        majority=judge.majority(split, data_root) if majority else None,
        invalid=num_invalid(predictions),
        num_cut=found.num_cut,
        num_bad_images=num_bad,
        seconds=time.perf_counter() - start,
        notes=tuple(notes(model, task, examples, settings, found, num_bad)),
    )


def describe(model: TunedModel) -> dict[str, Any]:
    """What was measured, for results.json."""
    config = model.backbone.config
    return {
        "backbone": getattr(model, "backbone_name", None) or config.name_or_path or config.model_type,
        "method": model.method.name,
        "trainable": model.num_trainable(),
        "tasks": list(model.tasks),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that the figures rest on."""

    def installed(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "not installed"

    return {"python": platform.python_version(), **{name: installed(name) for name in VERSIONED}}
