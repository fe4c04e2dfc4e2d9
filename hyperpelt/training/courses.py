"""The courses of a method in one training: when they act, and what they remember between steps and runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hyperpelt.data import Batch
from hyperpelt.errors import UserError
from hyperpelt.methods import Method, get, method_from_dict
from hyperpelt.methods.course import Course, Moment
from hyperpelt.model.inputs import inputs_of
from hyperpelt.training.objective import total_loss

if TYPE_CHECKING:
    from hyperpelt.model.tuned import TunedModel
    from hyperpelt.training.setup import Setup

# The first k global batches, each as this process's micro-batches.
FirstBatches = Callable[[int], Iterator[list[Batch]]]


class Courses:
    """All courses of a model's method.

    - **total**: optimiser steps of the training; **seed**: of what the courses draw
    - **first**: the first batches of it; **add_up**: sums tensors over processes, in place
    """

    def __init__(
        self,
        model: TunedModel,
        *,
        total: int,
        seed: int,
        first: FirstBatches,
        add_up: Callable[[list[Tensor]], None] = lambda tensors: None,
    ) -> None:
        self.model, self.total, self.seed, self.first, self.add_up = model, total, seed, first, add_up
        self.courses = model.method.courses
        self.states: list[dict[str, Tensor]] = [{} for _ in self.courses]

    def compose(self) -> Method:
        """What the method becomes before the model that is trained is made."""
        method = self.model.method
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            for course, now in self._moments(0):
                now.gradients = self._gradients
                method = course.compose(now, method)
        return method

    @torch.no_grad()
    def settle(self, model: TunedModel) -> None:
        """Put what was found in `compose` into the model that was made of it."""
        for course, now in self._moments(0):
            now.sources, now.backbone = model.sources, model.backbone
            course.settle(now)

    def begin(self) -> None:
        """Before the first step. What it draws beside the courses' own generators is drawn for nobody else.

        Raises:
            UserError: a course has yet to say what the method becomes, for which a run of training has to be set up.
        """
        waiting = [course.type_name for course in self.courses if course.composes]
        if waiting:
            raise UserError(
                f"The course {waiting[0]!r} of method {self.model.method.name!r} decides before a run what is "
                "trained: train it with `hyperpelt train` (`hyperpelt.train`), or adapt a run that was trained so."
            )
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices, enabled=bool(self.courses)):
            for course, now in self._moments(0):
                now.gradients = self._gradients
                course.begin(now)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """After optimiser step number `step`, counted from 1."""
        for course, now in self._moments(step):
            course.after_step(now)

    def state(self) -> dict[str, Tensor]:
        """What all courses remember, by number and name."""
        return {f"{i}.{name}": value for i, state in enumerate(self.states) for name, value in state.items()}

    def load_state(self, saved: Mapping[str, Tensor]) -> None:
        """The reverse of `state`."""
        for label, value in saved.items():
            number, name = label.split(".", 1)
            self.states[int(number)][name] = value.to(self.model.device)

    def _moments(self, step: int) -> Iterator[tuple[Course, Moment]]:
        model, names = self.model, self.model.learned_tasks
        tasks = range(len(model.tasks)) if names is None else [model.task_id(name) for name in names]
        for number, course in enumerate(self.courses):
            seed = self.seed * 1009 + number
            where = {"sources": model.sources, "backbone": model.backbone, "tasks": tasks, "state": self.states[number]}
            yield course, Moment(**where, step=step, total=self.total, seed=seed)

    @torch.enable_grad()
    def _gradients(
        self, parameters: Mapping[str, nn.Parameter], num_batches: int, *, alone: bool = False
    ) -> Iterator[dict[str, Tensor]]:
        """See `Moment.gradients`: without dropout, and alike however a batch is divided."""
        needed = {name: p.requires_grad for name, p in parameters.items()}
        each = list(parameters.values())
        with self._measured(alone) as model:
            for batches in self.first(num_batches):
                sums = [torch.zeros_like(p) for p in each]
                for parameter in each:
                    parameter.requires_grad_(True)
                for batch in batches:
                    loss = total_loss(model(**inputs_of(batch, model.device)), batch)
                    for total, found in zip(sums, torch.autograd.grad(loss, each, allow_unused=True), strict=True):
                        if found is not None:
                            total += found
                for name, parameter in parameters.items():
                    parameter.requires_grad_(needed[name])
                self.add_up(sums)
                yield dict(zip(parameters, sums, strict=True))

    @contextmanager
    def _measured(self, alone: bool) -> Iterator[TunedModel]:
        """The model in evaluation mode, or its backbone without it."""
        if not alone:
            with self.model.evaluating():
                yield self.model
            return
        mode = self.model.training
        bare = type(self.model)(self.model.backbone, get("frozen"), self.model.tasks, calibrate=False)
        try:
            yield bare.eval()
        finally:
            bare.detach()
            self.model.train(mode)  # they share the backbone


def composed(setup: Setup, saved: Mapping[str, Any] | None) -> Setup:
    """The set-up with the model of what its method becomes, where a course says that before training.

    - **saved**: what it became in the run that is resumed, None in a new one
    """
    model = setup.model
    if not any(course.composes for course in model.method.courses):
        return setup
    courses = Courses(
        model.to(setup.processes.device),
        total=setup.total,
        seed=setup.config.seed,
        first=lambda count: islice(setup.steps(0), count),
        add_up=setup.processes.add_up,
    )
    method = courses.compose() if saved is None else method_from_dict(saved)
    model.detach()
    made = setup.rebuilt(method)
    if saved is None:
        courses.settle(made.model)
    return made
