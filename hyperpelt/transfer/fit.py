"""Training on a handful of rows: a fixed number of steps, and a rule for which weights to keep that does not peek."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hyperpelt.config import RunConfig, build_run
from hyperpelt.data import MULTIPLE, Batch, Choices, MicroBatches, TokenizedSet
from hyperpelt.model.inputs import inputs_of, ranking_of
from hyperpelt.training.courses import Courses
from hyperpelt.training.objective import total_loss
from hyperpelt.training.optimisation import learning_rate, make_optimizer, set_learning_rate
from hyperpelt.transfer.settings import TransferConfig
from hyperpelt.transfer.shots import Shots, ShotSampler
from hyperpelt.weights import State

if TYPE_CHECKING:
    from hyperpelt.model.tuned import TunedModel
    from hyperpelt.tasks import Task
    from hyperpelt.vision.store import FeatureStore

LOOKS = 10  # at the held-out rows, in all


@dataclass(frozen=True)
class Fitted:
    """How a fit went: loss of the first and the last step, the step whose weights were kept, what chose it."""

    first_loss: float
    last_loss: float
    kept_step: int
    held_out_loss: float | None = None
    # A step whose loss, gradient or weights were not finite: kept are those of before the last update that led there.
    diverged_at: int | None = None


@dataclass(frozen=True)
class ShotData:
    """A task's training rows as tokens, and how batches of them are made for one model."""

    task: Task
    tokens: TokenizedSet
    choices: Choices | None  # where the loss compares them
    features: FeatureStore | None = None  # of its images, for models that read them
    ranked_by: str | None = None  # the length rule, where the loss ranks the choices

    def batches(self, model: TunedModel, sampler: ShotSampler) -> MicroBatches:
        """Batches by optimiser step."""
        multiple, ranking = 1 if model.device.type == "cpu" else MULTIPLE, None
        if self.ranked_by is not None and self.choices is not None:
            ranking = ranking_of(model, self.choices, self.ranked_by, multiple=multiple)
        return MicroBatches(
            sampler,
            {self.task.name: self.tokens},
            task_ids={self.task.name: model.task_id(self.task.name)},
            pad_token_id=model.backbone.config.pad_token_id,
            choices=self.choices if ranking is None else None,
            ranking=ranking,
            features=None if model.visual is None else self.features,
            multiple=multiple,
        )

    def in_order(self, model: TunedModel, rows: Sequence[int], batch_size: int) -> list[Batch]:
        """Every row once."""
        parts = ShotSampler(self.task.name, rows, batch_size, seed=0).in_order()
        found = []
        for part in parts:
            whole = ShotSampler(self.task.name, part.rows.tolist(), len(part), seed=0)
            found.append(self.batches(model, whole)[0])
        return found


def fit(model: TunedModel, data: ShotData, shots: Shots, config: TransferConfig, *, seed: int, rate: float) -> Fitted:
    """Train what `model.train_only` left trainable on the shots; the model keeps the chosen weights.

    Dropout and everything else that draws is fixed by the seed, and the caller's random state comes back unchanged.
    """
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices, device_type=model.device.type if devices else "cuda"):
        torch.manual_seed(seed)
        return _Fit(model, data, shots, config, seed, rate).run()


class _Fit:
    def __init__(
        self, model: TunedModel, data: ShotData, shots: Shots, config: TransferConfig, seed: int, rate: float
    ) -> None:
        self.model, self.config, self.total = model, config, config.steps
        self.parameters = [parameter for _, parameter in model.trainable_parameters()]
        self.settings = _as_run(data.task.name, config, rate, model.method.name)
        self.optimizer = make_optimizer(self.settings, model.trainable_parameters(), model.learning_rate_scales())
        self.rows = data.batches(model, ShotSampler(data.task.name, shots.learned, config.batch_size, seed))
        self.courses = Courses(model, total=self.total, seed=seed, first=lambda k: ([self.rows[i]] for i in range(k)))
        self.held_out = data.in_order(model, shots.held_out, config.batch_size)
        self.every = max(1, self.total // LOOKS)
        self.best: tuple[float, int, list[Tensor]] | None = None
        # What a step changes, by the optimiser or by a course: weights are of use only with the state they belong to.
        states = (source for source in model.sources.values() if isinstance(source, State))
        self.changed: list[Tensor] = [*self.parameters, *(buffer for source in states for buffer in source.buffers())]
        self.before = [tensor.detach().clone() for tensor in self.changed]  # the last update

    def run(self) -> Fitted:
        losses: list[Tensor] = []
        diverged = None
        self.model.train()
        self.courses.begin()
        for step in range(self.total):
            loss = self._step(step)
            if loss is None:
                diverged = step + 1
                break
            losses.append(loss)
            if step + 1 == self.total and not self._finite():
                diverged = self.total
                break
            if self.held_out and ((step + 1) % self.every == 0 or step + 1 == self.total):
                self._look(step + 1)
        self.model.eval()
        kept, chosen_by = self._keep(len(losses), diverged is not None)
        first, last = (float(losses[0]), float(losses[-1])) if losses else (float("nan"), float("nan"))
        return Fitted(first, last, kept, chosen_by, diverged)

    def _step(self, step: int) -> Tensor | None:
        """One optimiser step; its loss, or None (and no step) if something is not finite."""
        batch = self.rows[step]
        output = self.model(**inputs_of(batch, self.model.device))
        loss = total_loss(output, batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm or float("inf"))
        if not torch.isfinite(loss + norm):
            self.optimizer.zero_grad(set_to_none=True)
            return None
        # Counted from 1: the first of few steps shall move something.
        set_learning_rate(self.optimizer, learning_rate(self.settings, min(step + 1, self.total - 1), self.total))
        with torch.no_grad():
            torch._foreach_copy_(self.before, self.changed)
        self.optimizer.step()
        self.courses.after_step(step + 1)
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def _finite(self) -> bool:
        """Whether the weights are: the last update has no step after it that would tell."""
        return all(bool(parameter.isfinite().all()) for parameter in self.parameters)

    @torch.no_grad()
    def _look(self, step: int) -> None:
        self.model.eval()
        total = torch.zeros((), device=self.model.device)
        tokens = 0
        for batch in self.held_out:
            output = self.model(**inputs_of(batch, self.model.device))
            total += output.row_loss.sum()
            tokens += int(output.row_tokens.sum())
        value = float(total) / tokens
        if math.isfinite(value) and (self.best is None or value < self.best[0]):
            self.best = (value, step, [tensor.detach().clone() for tensor in self.changed])
        self.model.train()

    @torch.no_grad()
    def _keep(self, done: int, diverged: bool) -> tuple[int, float | None]:
        """(step whose weights the model has now, its held-out loss)."""
        if self.best is None and not diverged:
            return done, None
        value, step, kept = self.best or (None, max(0, done - 1), self.before)
        for tensor, values in zip(self.changed, kept, strict=True):
            tensor.copy_(values)
        return step, value


def _as_run(task: str, config: TransferConfig, rate: float, method: str) -> RunConfig:
    """The settings of the optimiser and its schedule, as the training room takes them."""
    names = ("optimizer", "warmup_steps", "max_grad_norm")
    values = {name: getattr(config, name) for name in names}
    return build_run({**values, "tasks": [task], "output_dir": "-", "learning_rate": rate, "method": method})
