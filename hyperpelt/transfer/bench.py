"""One process at work: the trained run with the new tasks beside its own, and how each kind of cell is done on it.

The run is loaded once. Every cell starts from the same saved state; what a cell trained is gone when the next begins,
so cells may be done in any order and by any process.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hyperpelt.backbones import resolve_dtype
from hyperpelt.data import Choices, TokenizedSet
from hyperpelt.evaluation.rehearsal import rehearse
from hyperpelt.evaluation.run import evaluate, majority_answer
from hyperpelt.evaluation.settings import Settings
from hyperpelt.methods import get as get_method
from hyperpelt.methods.base import Method
from hyperpelt.model.anew import backbone_anew
from hyperpelt.model.descriptions import tell_tasks
from hyperpelt.model.eye import eye_of
from hyperpelt.model.starts import Start, start_task
from hyperpelt.model.tuned import TunedModel
from hyperpelt.training.checks import metrics_fit
from hyperpelt.training.images import measure, stored
from hyperpelt.transfer.answering import as_the_run, is_blind, lengths, seeing
from hyperpelt.transfer.cells import FROZEN, ZERO_SHOT, Cell
from hyperpelt.transfer.fit import Fitted, ShotData, fit
from hyperpelt.transfer.in_context import num_fitting, prompted_each
from hyperpelt.transfer.settings import IN_CONTEXT, PARTS, SCRATCH, TransferConfig
from hyperpelt.transfer.shots import Shots, choose_shots

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hyperpelt.config import RunConfig
    from hyperpelt.data import Batch
    from hyperpelt.tasks import Example, Task

PROBED = 32  # test rows over which the shots in a prompt are counted


class Bench:
    """Does cells. `settings` are those of the trained run, None if it has no run.yaml."""

    def __init__(
        self, config: TransferConfig, tasks: Sequence[Task], settings: RunConfig | None, device: torch.device
    ) -> None:
        self.config, self.settings, self.device = config, settings, device
        self.tasks = {task.name: task for task in tasks}
        self.dtype = resolve_dtype(settings.backbone_dtype if settings else None)
        self.model = TunedModel.from_pretrained(config.run, device=device, dtype=self.dtype)
        self.trained = self.model.tasks
        for task in tasks:
            self.model.add_task(task)
        if "described" in config.start and self.model.described():
            tell_tasks(self.model, tasks, **self._reading())
        self._nearest: dict[str, Start] = {}
        self.state = {name: tensor.clone() for name, tensor in self.model.method_state().items()}
        self._data: dict[str, ShotData] = {}
        self._asked: dict[str, set[int]] = {}  # rows of each task

    def rehearse(self) -> None:
        """Raises UserError for what would end a measurement, or the table's majority answer, after the work for it."""
        said: dict[str, Any] = {"normalisation": self._rule(), **lengths(self.settings)}
        split, root = self.config.split, self.config.data_root
        for task in self.tasks.values():
            metrics_fit(task)
            rehearse(self.model, task, split, Settings(**said), data_root=root, limit=self.config.limit)
            majority_answer(task, split, root)

    # ------------------------------------------------------------------------------------------------------- one cell

    def run(self, cell: Cell) -> dict[str, Any]:
        """What the cell measured and how, as plain data."""
        began = time.perf_counter()
        if cell.adapt in (ZERO_SHOT, *PARTS):
            found = self._of_the_trained_model(cell)
        elif cell.adapt in (FROZEN, IN_CONTEXT):
            found = self._of_the_backbone(cell)
        else:
            found = self._from_nothing(cell)
        return {**asdict(cell), **found, "seconds": round(time.perf_counter() - began, 3)}

    def _of_the_trained_model(self, cell: Cell) -> dict[str, Any]:
        task, model = self.tasks[cell.task], self.model
        model.load_method_state(self.state)
        shots = self._shots(cell) if cell.shots else Shots(())
        data, size = self._data_of(task, shots), self.config.batch_size
        batches = data.in_order(model, shots.learned, size) if cell.shots else ()
        start = self._started(task, cell.start, batches)
        about: dict[str, Any] = {"started_like": start.task, "start_figures": start.figures}
        if cell.adapt == ZERO_SHOT:
            return {**about, **self._measured(model, task)}
        model.train_only(cell.adapt, [task.name])
        return {**about, **self._fitted(cell, model, shots), **self._measured(model, task)}

    def _started(self, task: Task, rule: str, shots: Sequence[Batch]) -> Start:
        """Put the task where the rule says; what words are nearest to is the same in every cell."""
        if rule != "nearest":
            return start_task(self.model, task, rule, among=self.trained, shots=shots, **self._reading())
        if task.name not in self._nearest:
            self._nearest[task.name] = start_task(self.model, task, rule, among=self.trained, **self._reading())
        start = self._nearest[task.name]
        self.model.start_task(task.name, {str(start.task): 1.0})
        return start

    def _from_nothing(self, cell: Cell) -> dict[str, Any]:
        """The run's own method, or a named one, on the bare backbone and this task alone."""
        method = self.model.method if cell.adapt == SCRATCH else get_method(cell.adapt)
        task, model = self.tasks[cell.task], self._fresh(method, cell)
        try:
            return {**self._fitted(cell, model, self._shots(cell)), **self._measured(model, task)}
        finally:
            model.detach()

    def _of_the_backbone(self, cell: Cell) -> dict[str, Any]:
        task, model = self.tasks[cell.task], self._fresh(get_method("frozen"), cell)
        try:
            if cell.adapt == FROZEN:
                return self._measured(model, task)
            shots = self._shots(cell) if cell.shots else Shots(())
            return {"rows": list(shots.learned), **self._in_context(cell, model, task, shots)}
        finally:
            model.detach()

    def _in_context(self, cell: Cell, model: TunedModel, task: Task, shots: Shots) -> dict[str, Any]:
        limit = getattr(model.backbone.config, "max_position_embeddings", None) or self.config.context_length
        length = min(self.config.context_length, limit)

        def chosen(variant: Task) -> list[Example]:
            if not cell.shots:
                return []
            examples = variant.examples("train", data_root=self.config.data_root)
            return [examples[row] for row in shots.learned]

        asking = prompted_each(task, chosen, model.need_tokenizer(), seed=cell.seed, max_length=length)
        rows = task.examples(self.config.split, data_root=self.config.data_root, limit=PROBED).raw()
        fitting = num_fitting(asking, [row for _, row in rows])
        return {"shots_in_prompt": fitting, **self._measured(model, asking, max_source_length=length)}

    # ------------------------------------------------------------------------------------------------------ its pieces

    def _shots(self, cell: Cell) -> Shots:
        return choose_shots(
            self.tasks[cell.task],
            cell.shots,
            seed=cell.seed,
            balanced=self.config.sampling == "balanced",
            hold_out=self.config.choose == "held-out" and cell.adapt != IN_CONTEXT,
            data_root=self.config.data_root,
        )

    def _fitted(self, cell: Cell, model: TunedModel, shots: Shots) -> dict[str, Any]:
        rate = self.config.rate_of(cell.adapt)
        data = self._data_of(self.tasks[cell.task], shots)
        result: Fitted = fit(model, data, shots, self.config, seed=cell.seed, rate=rate)
        rows = {"rows": list(shots.learned), "held_out": list(shots.held_out)}
        return {**rows, "trainable": model.num_trainable(), "learning_rate": rate, "fit": asdict(result)}

    def _measured(self, model: TunedModel, task: Task, **changes: Any) -> dict[str, Any]:
        how = {**as_the_run(self.settings, model), **self._said(), **changes}
        options = {"split": self.config.split, "limit": self.config.limit, "data_root": self.config.data_root}
        results = evaluate(model, [task], majority=False, progress=False, **options, **how)
        found = results.tasks[task.name]
        cut = {"num_cut": found.num_cut} if found.num_cut else {}
        return {"score": found.score, "metrics": dict(found.metrics), "tested": found.rows, **cut}

    def _said(self) -> dict[str, Any]:
        """What the transfer itself says of how answers are found."""
        given = {"normalisation": self.config.scoring, "batch_size": self.config.eval_batch_size}
        return {name: value for name, value in given.items() if value is not None}

    def _rule(self) -> str:
        """The length rule that answers are found by."""
        return self.config.scoring or (self.settings.scoring if self.settings is not None else "sum")

    def _reading(self) -> dict[str, Any]:
        return {"max_source_length": lengths(self.settings)["max_source_length"], "data_root": self.config.data_root}

    def _data_of(self, task: Task, shots: Shots) -> ShotData:
        """A task's tokens; of text those of the shots that were asked for so far."""
        asked = self._asked.setdefault(task.name, set())
        if task.name not in self._data or not asked.issuperset((*shots.learned, *shots.held_out)):
            asked |= {*shots.learned, *shots.held_out}
            tokenizer, root = self.model.need_tokenizer(), self.config.data_root
            unseen = is_blind(self.settings) or "image" not in task.modalities
            eye = None if unseen else eye_of(self.model, **seeing(self.settings))
            how: dict[str, Any] = {"data_root": root, "eye": eye, "blind": eye is None, **lengths(self.settings)}
            tokens = TokenizedSet.load_or_build(task, "train", tokenizer, rows=np.array(sorted(asked), np.int64), **how)
            length = lengths(self.settings)["max_target_length"]
            choices = Choices(self.tasks, tokenizer, length, root) if self.config.loss != "lm" else None
            ranked_by = self._rule() if self.config.loss == "ranking" else None
            self._data[task.name] = ShotData(task, tokens, choices, None if eye is None else stored(eye), ranked_by)
        return self._data[task.name]

    def _fresh(self, method: Method, cell: Cell) -> TunedModel:
        """A method on the bare backbone, for one task."""
        task = self.tasks[cell.task]
        backbone = self._whole_backbone if method.unfreeze else self._backbone
        options = {"tokenizer": self.model.tokenizer, "seed": cell.seed, "image_encoder": self.model.visual}
        model = TunedModel.build(backbone, method=method, tasks=[task], **options)
        model.backbone_name = self.model.backbone_name
        if model.described():
            tell_tasks(model, [task], **self._reading())
        data = self._data_of(task, Shots(()))
        if model.visual is not None and data.features is not None:
            measure(model, data.features, [data.tokens], seed=cell.seed)
        model.train_only("all", [task.name])
        return model.eval()

    @cached_property
    def _backbone(self) -> PreTrainedModel:
        """The backbone as it was before any training."""
        return backbone_anew(self.model) if self.model.own_backbone else self.model.backbone

    @cached_property
    def _whole_backbone(self) -> PreTrainedModel:
        """The same in float32, for methods that train it."""
        if self._backbone.dtype == torch.float32 and self.model.quantization is None:
            return self._backbone
        return backbone_anew(self.model, dtype=torch.float32)
