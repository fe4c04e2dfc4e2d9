"""A method's course: what it does before the first step of training and after each, beside what gradients do.

It may take ranks away on a schedule, draw an expert for each step, or look at gradients before it says which tuners
there are at all, and where; those of this library stand in `hyperpelt.methods.courses`. A course is a frozen dataclass
of settings with a `type_name`; all that it has to remember is in `Moment.state`, which checkpoints hold, so that a run
that was killed and resumed ends as one that never stopped. Whatever it draws, it draws from `Moment.generator()`, which
gives the same in every process; whatever it measures, it measures in tensors and gradients that are those of the whole
global batch.

Legend: T tasks, n places of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from hashlib import sha256
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from hyperpelt.config.setting_types import check_settings
from hyperpelt.errors import UserError, unknown
from hyperpelt.weights import Group, PerTask, State
from hyperpelt.weights.base import safe

if TYPE_CHECKING:
    from hyperpelt.methods.base import Method


@dataclass
class Moment:
    """What a course sees of training.

    - **sources**: the model's weight sources; **backbone**: frozen
    - **tasks**: ids of the tasks that learn
    - **step**: optimiser steps taken; **total**: of the run
    - **state**: what the course remembers, by name; saved in checkpoints
    - **gradients**: of the loss of each of the first k global batches, for named parameters of the backbone or the
      sources: `gradients(parameters, k)` yields k mappings; `alone=True`: of the frozen model without the method;
      before the first step only
    """

    sources: nn.ModuleDict
    backbone: nn.Module
    tasks: Sequence[int]
    step: int
    total: int
    seed: int
    state: dict[str, Tensor] = field(default_factory=dict)
    gradients: Callable[..., Iterator[dict[str, Tensor]]] | None = None

    def generator(self) -> torch.Generator:
        """A CPU generator for the draws of this step: the same in every process, and after a resumption."""
        label = sha256(f"{self.seed} {self.step}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(label[:8], "little") >> 1)

    def trained(self, part: str) -> dict[str, list[tuple[Group, nn.Parameter]]]:
        """Tensor name -> (group, parameter [T or 1, n, *shape]) of a part's stored tensors; their `grad` is the step's.

        A name has several groups where operations differ in shape. Tensors that a network makes are not stored.
        """
        found: dict[str, list[tuple[Group, nn.Parameter]]] = {}
        for source in self.sources.values():
            for key, group in source.groups.items() if isinstance(source, PerTask) else ():
                if group.part == part:
                    parameter = source.get_parameter(f"tensors.{safe(key)}")
                    found.setdefault(group.tensor, []).append((group, parameter))
        return found

    def states(self, part: str) -> dict[str, list[tuple[Group, Tensor]]]:
        """Tensor name -> (group, tensor [T or 1, n, *shape]) of a part's state, to be changed in place."""
        found: dict[str, list[tuple[Group, Tensor]]] = {}
        for source in self.sources.values():
            for key, group in source.groups.items() if isinstance(source, State) else ():
                if group.part == part:
                    found.setdefault(group.tensor, []).append((group, source.get_buffer(safe(key))))
        return found


@dataclass(frozen=True, kw_only=True)
class Course:
    """Base of all courses. **part**: the name of the method's part that it is about."""

    type_name: ClassVar[str]
    composes: ClassVar[bool] = False  # whether it has something to say before the model is made
    part: str

    def check(self, method: Method) -> None:
        """Raises:
        UserError: the course makes no sense for this method.
        """
        if self.part not in [part.name for part in method.parts]:
            raise unknown(f"part in the course {self.type_name!r}", self.part, [part.name for part in method.parts])

    def needs_stored(self, method: Method) -> None:
        """Raises:
        UserError: a network makes tensors of the part, so that there is nothing for the course to set.
        """
        part = next(part for part in method.parts if part.name == self.part)
        made = [name for name in part.sources if method.source(name).type not in ("per_task", "shared")]
        if made:
            raise UserError(
                f"The course {self.type_name!r} of method {method.name!r} changes stored tensors (per_task or "
                f"shared), but those of part {self.part!r} are made by {method.source(made[0]).type!r}."
            )

    def compose(self, now: Moment, method: Method) -> Method:
        """Before the model that is trained is made: what the method becomes, without this course.

        What it remembers in `now.state` it finds again in `settle`.
        """
        return method

    def settle(self, now: Moment) -> None:
        """When that model is made: what `compose` found goes into its tensors."""

    def begin(self, now: Moment) -> None:
        """Before the first step."""

    def after_step(self, now: Moment) -> None:
        """After each optimiser step, while the gradients are still there."""

    def to_dict(self) -> dict[str, Any]:
        return {"type": self.type_name, **{f.name: getattr(self, f.name) for f in fields(self)}}


_TYPES: dict[str, type[Course]] = {}


def course_type(cls: type[Course]) -> type[Course]:
    """Class decorator: makes a course known by its `type_name`."""
    if cls.type_name in _TYPES:
        raise UserError(f"Course type {cls.type_name!r} is defined twice: {_TYPES[cls.type_name]!r} and {cls!r}.")
    _TYPES[cls.type_name] = cls
    return cls


def course_from_dict(data: Any) -> Course:
    """A course from plain data, e.g. `{"type": "rank_budget", "part": "triplets", "rank": 8}`.

    Raises:
        UserError: unknown type or setting (names the nearest), or a value of another type.
    """
    if not isinstance(data, Mapping) or "type" not in data:
        raise UserError(f"A course is a mapping of a `type` ({', '.join(sorted(_TYPES))}) and settings, got {data!r}.")
    values = dict(data)
    name = str(values.pop("type"))
    if name not in _TYPES:
        raise unknown("course type", name, _TYPES)
    return _TYPES[name](**check_settings(f"course {name!r}", values, _TYPES[name]))
