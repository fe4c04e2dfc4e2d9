"""Everything a run needs before its first step, prepared in the order in which mistakes are cheapest to report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hyperpelt import methods
from hyperpelt.backbones import set_dropout
from hyperpelt.config import RunConfig
from hyperpelt.data import (
    MULTIPLE,
    Batch,
    Choices,
    MicroBatches,
    MixtureSampler,
    Ranking,
    TokenizedSet,
    batches,
    rate_trees,
    rates_table,
    task_names,
)
from hyperpelt.data.buckets import Buckets
from hyperpelt.errors import UserError
from hyperpelt.evaluation.run import check_lengths
from hyperpelt.methods import Method
from hyperpelt.methods.rates import suited_rate
from hyperpelt.model.descriptions import tell_tasks
from hyperpelt.model.inputs import ranking_of
from hyperpelt.model.saving import local_folder, read_config
from hyperpelt.model.starts import start_task
from hyperpelt.model.tuned import TunedModel
from hyperpelt.tasks.plugins import load_each
from hyperpelt.training import checks, images
from hyperpelt.training.compiled import check_compilable
from hyperpelt.training.distributed import Processes
from hyperpelt.training.rows import num_steps, tokenise
from hyperpelt.training.tracking import check_installed

if TYPE_CHECKING:
    from hyperpelt.tasks import Task
    from hyperpelt.vision.base import ImageEncoder
    from hyperpelt.vision.spec import VisualSpec
    from hyperpelt.vision.store import FeatureStore

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Setup:
    """A run, ready to start. `names` are the tasks in the model's order; `total` counts optimiser steps."""

    config: RunConfig
    processes: Processes
    tasks: list[Task]
    model: TunedModel
    sets: dict[str, TokenizedSet]
    sampler: MixtureSampler
    total: int
    features: FeatureStore | None = None
    about_images: str | None = None
    warnings: Sequence[str] = ()  # about the tasks, to be said before the first step

    @property
    def names(self) -> list[str]:
        return [task.name for task in self.tasks]

    @property
    def fingerprints(self) -> dict[str, str]:
        """What each task's training tokens are made of."""
        return {name: tokens.fingerprint for name, tokens in self.sets.items()}

    @property
    def buckets(self) -> Buckets:
        """The few lengths of a compiled run."""
        if not self.config.torch_compile:
            return Buckets()
        return Buckets.of(self.config.max_source_length, self.config.max_target_length)

    def steps(self, start: int) -> Iterator[list[Batch]]:
        """This process's micro-batches of every step from `start` on."""
        device = self.processes.device.type
        # An eager step on a CPU gains nothing from round lengths, and pays for every padded token.
        multiple = 1 if device == "cpu" and not self.config.torch_compile else MULTIPLE
        rows = MicroBatches(
            self.sampler,
            self.sets,
            task_ids={name: self.model.task_id(name) for name in self.names},
            pad_token_id=self.model.backbone.config.pad_token_id,
            num_micro=self.config.gradient_accumulation_steps,
            rank=self.processes.rank,
            world=self.processes.world,
            choices=self._choices() if self.config.loss == "t-few" else None,
            ranking=self._ranking(multiple) if self.config.loss == "ranking" else None,
            features=self.features,
            multiple=multiple,
            buckets=self.buckets,
        )
        # Processes tell each other what they read of a stream: in order, so not from workers.
        workers = 0 if self.sampler.streams else self.config.dataloader_num_workers
        return batches(rows, start=start, stop=self.total, num_workers=workers, pin_memory=device == "cuda")

    def _choices(self) -> Choices:
        named = {task.name: task for task in self.tasks}
        length, root = self.config.max_target_length, self.config.data_root
        return Choices(named, self.model.need_tokenizer(), length, data_root=root)

    def _ranking(self, multiple: int) -> Ranking:
        config = self.config
        return ranking_of(self.model, self._choices(), config.scoring, most=config.ranked_choices, multiple=multiple)

    def rebuilt(self, method: Method) -> Setup:
        """The same with a new model of another method."""
        config = self.config.model_copy(update={"method": method.to_dict()})
        return replace(self, model=_build_model(config, self.processes, self.tasks, self.model.visual))

    def mixture(self) -> list[dict[str, Any]]:
        """Per task: rows, rate, expected epochs, how many inputs and targets were cut, and images skipped."""
        sizes = {name: len(tokens) for name, tokens in self.sets.items()}
        rows = rates_table(self.sampler.rates, sizes, self.total * self.sampler.batch_size)
        counts = ("num_cut_sources", "num_cut_targets", "num_bad_images")
        return [{**row, **{key: getattr(self.sets[row["task"]], key) for key in counts}} for row in rows]


def prepare(config: RunConfig, processes: Processes, *, show: bool = False) -> Setup:
    """Find the tasks, build the model, tokenise, and fix the order of rows.

    Raises UserError for whatever of it is not as the configuration says; nothing is written to the run folder.
    """
    check_installed(config.report_to)
    load_each(config.plugins)
    trees = rate_trees(config.task_rates)
    tasks = _registered(task_names(trees))
    checks.splits_are_there(config, tasks)
    checks.answers_are_there(config, tasks)
    warnings = checks.worth_saying(config, tasks) if show else []
    sight = images.choose_encoder(config, processes.device)
    model = _build_model(config, processes, tasks, sight)
    check_lengths(model, config.max_source_length, config.max_target_length)
    with processes.accelerator.main_process_first():  # which may fetch data
        checks.evaluations_work(config, tasks, model)
    eye = images.make_eye(config, model, tasks, sight)
    with processes.accelerator.main_process_first():  # one process encodes what is not in the feature store yet
        sets, sampler = tokenise(config, processes, trees, tasks, model, show, eye)
        images.see_evaluations(config, tasks, eye, show)
    features = images.features_of(config, model, sets, eye)
    about_images = images.told(sets, eye)
    return Setup(
        config, processes, tasks, model, sets, sampler, num_steps(config, sampler), features, about_images, warnings
    )


def _registered(names: Sequence[str]) -> list[Task]:
    from hyperpelt import tasks as registry

    return [registry.get(name) for name in names]


def _build_model(
    config: RunConfig, processes: Processes, tasks: Sequence[Task], encoder: ImageEncoder | VisualSpec | None
) -> TunedModel:
    if config.quantization and processes.sharded:
        raise UserError("quantization: packed weights are not sharded; launch without --use_fsdp, they are small.")
    with processes.accelerator.main_process_first():  # one process fetches what is not here yet
        model = build_model(config, tasks, encoder)
        if model.described():
            _tell(model, config, tasks)
        if config.from_run is not None:
            _start(model, config, tasks)
    if any(parameter.dtype != torch.float32 for _, parameter in model.trainable_parameters()):
        raise UserError(
            f"Method {model.method.name!r} trains the backbone itself, which precision={config.precision} would round "
            "after every step, losing small updates; set precision=fp32."
        )
    if config.dropout is not None:
        drop(model, config.dropout)
    if config.torch_compile:
        check_compilable(model.method, sharded=processes.sharded)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    return model


def drop(model: TunedModel, probability: float) -> None:
    """The setting `dropout`: of the frozen backbone in training, and of what stands beside it."""
    side = model.sources.side_network
    for one in (model.backbone, *(side.stacks() if side is not None else ())):
        set_dropout(one, probability)


def build_model(
    config: RunConfig, tasks: Sequence[Task], encoder: ImageEncoder | VisualSpec | None = None
) -> TunedModel:
    """The model of a run at its start. encoder: whose features its method reads."""
    dtype = DTYPES[config.backbone_dtype]
    if config.from_run is None:
        return TunedModel.build(
            config.backbone,
            method=config.method,
            tasks=tasks,
            seed=config.seed,
            dtype=dtype,
            image_encoder=encoder,
            source_language=config.source_language,
            target_language=config.target_language,
            quantization=config.quantization,
        )
    model = TunedModel.from_pretrained(config.from_run, backbone=config.backbone, dtype=dtype)
    model.backbone_name = config.backbone
    for task in tasks:
        model.add_task(task)
    model.train_only("embedding", [task.name for task in tasks])
    return model


def taken_over(config: RunConfig) -> RunConfig:
    """The settings of a run that adds tasks to another one, with that one's backbone and method. The settings say where
    the backbone is now if it is not where it was."""
    if config.from_run is None:
        return config
    saved = read_config(local_folder(config.from_run))
    taken = {name: saved.get(name) for name in ("method", "quantization")}
    before = str(saved["backbone"])
    moved = not before or (Path(before).is_absolute() and not Path(before).exists())
    if not (moved and "backbone" in config.model_fields_set):
        taken["backbone"] = before
    return config.model_copy(update=taken)


def with_rate(config: RunConfig) -> tuple[RunConfig, bool]:
    """The settings with a learning rate: where it is null, the one that suits the method; and whether it was."""
    if config.learning_rate is not None:
        return config, False
    return config.model_copy(update={"learning_rate": suited_rate(methods.get(config.method))}), True


def _tell(model: TunedModel, config: RunConfig, tasks: Sequence[Task]) -> None:
    """Let the hypernetwork read the words of its tasks."""
    tell_tasks(model, tasks, max_source_length=config.max_source_length, data_root=config.data_root)


def _start(model: TunedModel, config: RunConfig, tasks: Sequence[Task]) -> None:
    """Put added tasks where `start_from` says."""
    added = {task.name for task in tasks}
    trained = [name for name in model.tasks if name not in added]
    length, root = config.max_source_length, config.data_root
    for task in tasks:
        start_task(model, task, config.start_from, among=trained, max_source_length=length, data_root=root)
