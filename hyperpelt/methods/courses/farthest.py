"""A share of a tensor's entries stays, those farthest from 0 (Stahlberg, Lichtarge & Kumar 2024, arXiv 2411.08610).

Each tensor at each operation is one of the paper's silos.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from hyperpelt.errors import UserError
from hyperpelt.methods.base import Method
from hyperpelt.methods.course import Course, Moment, course_type


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
