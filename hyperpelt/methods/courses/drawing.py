"""One of many, drawn anew for each step: once a step, not once a forward, so that however a batch is divided it meets
the same one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from hyperpelt.methods.course import Course, Moment, course_type


@course_type
@dataclass(frozen=True, kw_only=True)
class OneOfMany(Course):
    """Before each step, one entry of each of a part's `tensor` states is drawn to be 1, the others are 0."""

    type_name: ClassVar[str] = "one_of_many"
    tensor: str = "draw"

    def begin(self, now: Moment) -> None:
        self.after_step(now)

    @torch.no_grad()
    def after_step(self, now: Moment) -> None:
        generator = now.generator()
        for group, values in now.states(self.part).get(self.tensor, []):
            chosen = torch.randint(values.shape[-1], (len(group.places),), generator=generator)
            values.copy_(torch.nn.functional.one_hot(chosen, values.shape[-1]).to(values))
