"""Where a task is sensitive: which weights are trained, and which matrices get LoRA, chosen before training begins.

A course that composes: it measures the first batches' gradients on the frozen weights, and the method becomes parts at
the operations that were chosen. See `hyperpelt.methods.spt` for the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from hyperpelt.backbones.quantised import require_weights
from hyperpelt.config.setting_types import check_at_least
from hyperpelt.errors import UserError
from hyperpelt.methods.base import Method, Part
from hyperpelt.methods.course import Course, Moment, course_type
from hyperpelt.operations import PROJECTIONS, Operation, list_operations, select
from hyperpelt.tuners import Entries, LoRA
from hyperpelt.tuners.delta import weight_shape

MOST = 5  # times the budget: matrices that get LoRA hold more taken weights than they cost


@dataclass(frozen=True)
class _Piece:
    """A matrix or vector: where it lies in its operation's weights, and what it costs to train it otherwise."""

    operation: Operation
    start: int
    size: int
    otherwise: int | None


@course_type
@dataclass(frozen=True, kw_only=True)
class Sensitive(Course):
    """Before training, a part of `entries` is put where the weights are sensitive, within its own size.

    - **rank** of LoRA where a matrix is sensitive as a whole; 0: never; **batches**: to measure on
    - **ratio**: of LoRA's size, or of a vector, that must be taken at least, as its reciprocal
    """

    type_name: ClassVar[str] = "sensitive"
    composes: ClassVar[bool] = True
    rank: int = 8
    batches: int = 8
    ratio: float = 5.0

    def check(self, method: Method) -> None:
        super().check(method)
        check_at_least(1, f"course {self.type_name!r}", batches=self.batches)
        check_at_least(0, f"course {self.type_name!r}", rank=self.rank)
        if not isinstance(self._part(method).tuner, Entries):
            raise UserError(f"The course {self.type_name!r} places 'entries', which part {self.part!r} does not have.")

    def compose(self, now: Moment, method: Method) -> Method:
        require_weights(now.backbone, f"Method {method.name!r}, which measures how sensitive they are,")
        part = self._part(method)
        there = select(list_operations(now.backbone), part.at)
        budget = sum(part.tuner.count(op) for op in there) if isinstance(part.tuner, Entries) else 0
        pieces = [piece for op in there for piece in self._pieces(op)]
        taken = self._taken(pieces, self._sensitivities(now, there), budget)
        low = [p.operation.name for p, t in zip(pieces, taken, strict=True) if self._low(p, len(t))]
        for op in there:
            mine = [(p, t) for p, t in zip(pieces, taken, strict=True) if p.operation == op]
            found = [self._positions(p, t) for p, t in mine if not self._low(p, len(t))]
            now.state[op.name] = torch.cat([torch.zeros(0, dtype=torch.long), *found])
        counts = {op.name: len(now.state[op.name]) for op in there if len(now.state[op.name])}
        parts = [one for one in method.parts if one.name != self.part]
        source = part.source if isinstance(part.source, str) else part.source_of("values")
        if counts:
            parts.append(replace(part, tuner=Entries(share=0.0, counts=counts), at=tuple(counts), source=source))
        if low:
            parts.append(Part(name=f"{self.part}_low", tuner=LoRA(rank=self.rank), at=tuple(low), source=source))
        return replace(method, parts=tuple(parts), courses=tuple(c for c in method.courses if c != self))

    def settle(self, now: Moment) -> None:
        for group, positions in now.states(self.part).get("positions", []):
            for index, (operation,) in enumerate(group.places):
                positions[:, index] = now.state[operation.name].to(positions)

    def _part(self, method: Method) -> Part:
        return next(part for part in method.parts if part.name == self.part)

    def _pieces(self, operation: Operation) -> list[_Piece]:
        size = prod(weight_shape(operation))
        low = (operation.d_in + operation.d_out) * self.rank or None
        found = [_Piece(operation, 0, size, low if operation.kind in PROJECTIONS else size)]
        return [*found, _Piece(operation, size, operation.d_out, operation.d_out)] if operation.has_bias else found

    def _sensitivities(self, now: Moment, there: Sequence[Operation]) -> Tensor:
        """Of all pieces' weights, one after the other, each as `entries` counts them."""
        assert now.gradients is not None, "a course composes before the first step"
        modules = {op.name: now.backbone.get_submodule(op.path) for op in there}
        named = {f"{name}|{what}": p for name, m in modules.items() for what, p in m.named_parameters(recurse=False)}
        sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in named.items()}
        for gradients in now.gradients(named, self.batches):
            for name, gradient in gradients.items():
                sums[name] += gradient.float() ** 2
        whats = [(op, what) for op in there for what in ("weight", "bias") if what == "weight" or op.has_bias]
        flat = (sums[f"{op.name}|{what}"] for op, what in whats)
        return torch.cat([(t.T if t.ndim == 2 else t).flatten().cpu() for t in flat])

    def _taken(self, pieces: Sequence[_Piece], sensitivities: Tensor, budget: int) -> list[Tensor]:
        """For each piece the places in it of the most sensitive weights, as many as cost no more than the budget."""
        ends = torch.tensor([piece.size for piece in pieces]).cumsum(0)
        most = sensitivities.topk(min(len(sensitivities), MOST * budget)).indices
        owners = torch.searchsorted(ends, most, right=True)
        few, many = 0, len(most)
        while few < many:  # costs never fall as more are taken
            middle = (few + many + 1) // 2
            numbers = torch.bincount(owners[:middle], minlength=len(pieces)).tolist()
            if sum(self._cost(p, n) for p, n in zip(pieces, numbers, strict=True)) <= budget:
                few = middle
            else:
                many = middle - 1
        starts = [0, *ends.tolist()]
        return [(most[:few][owners[:few] == i] - starts[i]).sort().values for i in range(len(pieces))]

    def _otherwise(self, piece: _Piece, number: int) -> bool:
        return piece.otherwise is not None and number > 0 and number >= piece.otherwise / self.ratio

    def _low(self, piece: _Piece, number: int) -> bool:
        return piece.operation.kind in PROJECTIONS and piece.start == 0 and self._otherwise(piece, number)

    def _cost(self, piece: _Piece, number: int) -> int:
        return piece.otherwise or 0 if self._otherwise(piece, number) else number

    def _positions(self, piece: _Piece, taken: Tensor) -> Tensor:
        whole = self._otherwise(piece, len(taken))
        return piece.start + (torch.arange(piece.size) if whole else taken)
