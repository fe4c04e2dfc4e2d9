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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from hyperpelt import metrics
from hyperpelt import tasks as registry
from hyperpelt.data.progress import shown
from hyperpelt.errors import UserError
from hyperpelt.evaluation.intervals import RESAMPLES, Draws, of_averages
from hyperpelt.evaluation.judging import majority_answer
from hyperpelt.evaluation.measuring import Measuring
from hyperpelt.evaluation.prediction import predict
from hyperpelt.evaluation.results import Results, TaskResult
from hyperpelt.evaluation.samples import sample_log
from hyperpelt.evaluation.settings import Answering, Settings
from hyperpelt.model.anew import backbone_anew
from hyperpelt.model.eye import eye_of
from hyperpelt.model.tuned import TunedModel
from hyperpelt.tasks import Task

if TYPE_CHECKING:
    from accelerate import Accelerator

    from hyperpelt.data import seeing

__all__ = ["describe", "evaluate", "majority_answer", "predict", "resolve", "versions", "without_method"]
TOLD = ("normalisation", "regression", "max_source_length", "max_target_length")  # with the results
VERSIONED = ("hyperpelt", "torch", "transformers", "tokenizers", "datasets", "scikit-learn", "scipy")


def evaluate(
    model: TunedModel,
    tasks: str | Task | Iterable[str | Task],
    *,
    split: str | Mapping[str, str] = "test",
    data_root: str | Path | None = None,
    limit: int | None = None,
    majority: bool = True,
    frozen: bool = False,
    features_dir: str | Path | None = None,
    on_bad_image: str = "error",
    blind: bool = False,
    intervals: bool = False,
    seed: int = 0,
    log_samples: str | Path | None = None,
    accelerator: Accelerator | None = None,
    progress: bool = True,
    **how: Unpack[Answering],
) -> Results:
    """Measure `model` on a split of each task.

    Args:
        tasks: names, wildcards, mixtures or Task objects; wildcards look among the model's own tasks.
        split: of every task, or by the task's name.
        limit: at most this many rows of each task, a fixed random sample.
        majority: also score the most frequent answer of the training split.
        frozen: also score the backbone without the method (and so without images), which takes as long again.
        features_dir: folder of the feature store. on_bad_image: `error`, or `skip`: a row is answered without an image
            that cannot be used, and these are counted. blind: withhold the images.
        intervals: also how sure each score is: a bootstrap over rows (`hyperpelt.evaluation.intervals`) of that seed.
        log_samples: a file to which every row goes with its answer, as a JSON line.
        accelerator: shares the rows out among its processes.
        how: batch_size, normalisation, ...: the settings of `hyperpelt.evaluation.settings.Answering`.

    Raises UserError for an unknown task, metric, split or rule, and for rows that do not render.
    """
    settings = Settings(**dict[str, Any](how))
    chosen = _asked(model, tasks, settings)
    splits = {task.name: split if isinstance(split, str) else split[task.name] for task in chosen}
    measuring = Measuring(
        settings=settings,
        split="",  # which is each task's own
        data_root=data_root,
        limit=limit,
        majority=majority,
        blind=blind,
        eye=None if blind else _eye(model, chosen, features_dir, on_bad_image),
        resamples=RESAMPLES if intervals else 0,
        seed=seed,
        accelerator=accelerator,
        progress=progress and (accelerator is None or accelerator.is_main_process),
    )
    measured = _measured(measuring, model, chosen, splits, log_samples)
    found = {name: result for name, (result, _) in measured.items()}
    if frozen:
        found = _beside_frozen(found, model, chosen, measuring, splits)
    told = _told(measuring, chosen, splits, on_bad_image)
    sure = of_averages({name: drawn for name, (_, drawn) in measured.items()} if intervals else {})
    return Results(tasks=found, settings=told, model=describe(model), versions=versions(), intervals=sure)


def _measured(
    measuring: Measuring,
    model: TunedModel,
    tasks: Sequence[Task],
    splits: Mapping[str, str],
    log_samples: str | Path | None,
) -> dict[str, tuple[TaskResult, Draws]]:
    """By task its result, and what `intervals` are taken from; the main process writes the log of rows."""
    is_main = measuring.accelerator is None or measuring.accelerator.is_main_process
    with sample_log(Path(log_samples) if log_samples is not None and is_main else None) as log:
        logged = replace(measuring, log=log)
        return {t.name: logged.on(splits[t.name]).task(model, t) for t in _shown(tasks, measuring.progress)}


def _beside_frozen(
    found: Mapping[str, TaskResult],
    model: TunedModel,
    tasks: Sequence[Task],
    measuring: Measuring,
    splits: Mapping[str, str],
) -> dict[str, TaskResult]:
    """The results, and what the backbone scores without the method."""
    bare, alone, mode = without_method(model), measuring.alone(), model.training
    try:
        frozen = {task.name: alone.on(splits[task.name]).task(bare, task)[0].metrics for task in tasks}
    finally:
        bare.detach()
        model.train(mode)  # they share the backbone
    return {name: replace(found[name], frozen=scores) for name, scores in frozen.items()}


def _told(measuring: Measuring, tasks: Sequence[Task], splits: Mapping[str, str], on_bad_image: str) -> dict[str, Any]:
    """What the figures depend on, for results.json."""
    settings, named = measuring.settings, ", ".join(dict.fromkeys(splits.values()))
    told: dict[str, Any] = {"split": named, "limit": measuring.limit}
    told |= {name: getattr(settings, name) for name in TOLD}
    if _see(tasks):
        told |= {"blind": measuring.blind, "on_bad_image": on_bad_image, "num_beams": settings.num_beams}
    return told


def _shown(tasks: Sequence[Task], progress: bool) -> Iterable[Task]:
    """The tasks, with a bar over them where there are several."""
    return shown(tasks, "evaluated", "tasks", progress=progress and len(tasks) > 1)


def _see(tasks: Iterable[Task]) -> bool:
    return any("image" in task.modalities for task in tasks)


def _eye(
    model: TunedModel, tasks: Sequence[Task], features_dir: str | Path | None, on_bad_image: str
) -> seeing.Eye | None:
    if not _see(tasks):
        return None
    return eye_of(model, features_dir=features_dir, on_bad_image=on_bad_image)


def _asked(model: TunedModel, tasks: str | Task | Iterable[str | Task], settings: Settings) -> list[Task]:
    """The tasks to measure; what cannot be measured is reported before hours of work."""
    chosen = resolve(tasks, among=model.tasks)
    _check(model, chosen)
    check_lengths(model, settings.max_source_length, settings.max_target_length)
    return chosen


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

    A method that trains the backbone, or replaces some of it, has changed its copy, so it is loaded anew by its name.
    """
    backbone = backbone_anew(model) if model.own_backbone else model.backbone
    return TunedModel.build(backbone, method="frozen", tasks=model.tasks, tokenizer=model.tokenizer)


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
