"""Dynamic Subset Tuning (Stahlberg, Lichtarge & Kumar 2024, arXiv 2411.08610): which weights differ is chosen anew.

    dynamic-subset = delta @ projections, shift @ norms x per task, and a course that projects after each step

Every weight gets a gradient and moves; then the course keeps, of each tensor at each operation (the paper's silo), the
share that is farthest from the frozen model, and sets the others back to it. So between steps, and in whatever is
saved, a task is a share of positions with their values; in training it costs what full fine-tuning does. Embeddings
and position biases stay frozen. With share 1 it is full fine-tuning of what it touches.

T5-base, one task: 198,228,480 values move, of which 0.5 % (991,050) differ. Identity: D = 0. Merges. Reference: float64
transcription; requires_grad on the backbone's own weights for share 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from hyperpelt.errors import UserError
from hyperpelt.methods.base import Method, Part
from hyperpelt.methods.course import Course, Moment, course_type
from hyperpelt.methods.registry import method
from hyperpelt.tuners import Delta, Norm


@course_type
@dataclass(frozen=True, kw_only=True)
class FarthestShare(Course):
    """After each step only a **share** of the entries of each tensor at each operation, those farthest from 0, stay."""

    type_name: ClassVar[str] = "farthest_share"
    share: float = 0.005

    def check(self, method: Method) -> None:
        super().check(method)
        if not 0 < self.share <= 1:
            raise UserError(f"The share of the entries that stay is above 0 and at most 1, got {self.share}.")
        self.needs_stored(method)

    @torch.no_grad()
    def after_step(self, now: Moment) -> None:
        for entries in now.trained(self.part).values():
            for _, values in entries:
                flat = values.flatten(2)  # [T or 1, n, entries]
                kept = flat.abs().topk(int(self.share * flat.shape[-1]), dim=-1).indices
                flat.masked_fill_(torch.ones_like(flat, dtype=torch.bool).scatter_(-1, kept, False), 0.0)


@method("dynamic-subset", paper="Dynamic Subset Tuning, arXiv 2411.08610", family="weights", reference="transcription")
def dynamic_subset(*, share: float = 0.005, train_norms: bool = True, at: tuple[str, ...] = ("projections",)) -> Method:
    parts = [Part(name="weights", tuner=Delta(), at=tuple(at))]
    parts += [Part(name="norms", tuner=Norm(), at=("norms",))] if train_norms else []
    return Method(
        name="dynamic-subset",
        parts=tuple(parts),
        courses=tuple(FarthestShare(part=part.name, share=share) for part in parts),
    )
